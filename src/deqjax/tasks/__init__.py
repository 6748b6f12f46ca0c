"""What can be trained out of the box, each task written as a user would write one."""

__all__: list[str] = []
