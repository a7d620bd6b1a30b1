"""What the simulator's parts share: they end with a `with` block."""

from typing import Self


class Closing:
    """Something that lasts until `close`; `with` closes it."""

    def close(self) -> None:
        """End it, and all that it started."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
