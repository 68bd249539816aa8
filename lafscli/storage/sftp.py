"""Files over SFTP."""

from lafscli.storage.channel import Stream

__all__ = ["Stream"]
