"""The configuration, the secrets and the home folder; this room alone looks at the environment."""
