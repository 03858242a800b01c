"""What the standard's syntax cannot carry, as notes in topology units.

A topology unit of the format "unrecognised" holds a text that a decoder without interest in it passes over, the
reference software included, wherever such a unit stands. Ours start with the word below; JSON follows. A note holds
for the next data unit, except for container and metadata, which are the stream's, and for tensors without elements,
which have no data unit.

Where the standard can tell an element type (data format in the data unit), that is used and no note is written.
"""

from __future__ import annotations

import msgspec

from wattwerk.errors import BitstreamError

MARK = "wattwerk "


class Note(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One note.

    Attributes:
        container: Kind of file that the tensors come from.
        metadata: Texts that came with them.
        dtype: Element type of the next tensor, or of `empty`.
        shape: Shape of the next tensor where it is not the coded one, or of `empty`.
        planes: The next tensor's bytes are coded, least significant plane first, instead of its values.
        scaled: The next block's weight comes back multiplied by its local scaling, because that is what was packed.
        empty: Name of a tensor without elements, for which there is no data unit.
        removed: Tensors of the base that no longer exist (updates).
    """

    container: str | None = None
    metadata: dict[str, str] | None = None
    dtype: str | None = None
    shape: tuple[int, ...] | None = None
    planes: bool = False
    scaled: bool = False
    empty: str | None = None
    removed: tuple[str, ...] = ()

    @property
    def about_next(self) -> bool:
        """Whether the note says something about the next data unit."""
        told = self.dtype is not None or self.shape is not None or self.planes or self.scaled
        return told and self.empty is None


NOTHING = Note()

_encode = msgspec.json.Encoder(order="deterministic").encode
_decode = msgspec.json.Decoder(Note).decode


def write_note(note: Note) -> str:
    """Return a note as the text of a topology unit."""
    return MARK + _encode(note).decode()


def read_note(text: str, offset: int) -> Note | None:
    """Return the note in a topology unit's text, or None if it is somebody else's text.

    Args:
        text: The text.
        offset: Where the unit starts in the stream, for the message.

    Raises:
        BitstreamError: The text starts like a note and is none.
    """
    if not text.startswith(MARK):
        return None
    try:
        return _decode(text[len(MARK) :])
    except (msgspec.DecodeError, RecursionError) as error:
        raise BitstreamError(f"a note about tensors cannot be read ({error})", offset=offset) from error
