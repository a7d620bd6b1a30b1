"""Colours that are there on a terminal and vanish in a pipe."""

SGR = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "blue": "34", "cyan": "36"}


class Paint:
    """Colours that are there on a terminal and vanish in a pipe."""

    def __init__(self, colour: bool) -> None:
        self.colour = colour

    def __call__(self, text: str, *styles: str) -> str:
        """`text` in these styles."""
        if not self.colour or not styles:
            return text
        return f"\033[{';'.join(SGR[style] for style in styles)}m{text}\033[0m"
