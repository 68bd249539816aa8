"""What brings others to a grid, and what brings a home back: the grid file, the sealed recovery kit."""
