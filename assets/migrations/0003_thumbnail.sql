-- Pictures made of pictures. Kept by content, not by media ID: identical uploads share them, and they go when no media has
-- their source any more.
CREATE TABLE thumbnail (
    source       BLOB    NOT NULL, -- sha256 of the picture it was made of; a media row has it
    crop_x       INTEGER NOT NULL, -- the part of the source it shows, as seen after orientation, pixels
    crop_y       INTEGER NOT NULL, --
    crop_width   INTEGER NOT NULL, --
    crop_height  INTEGER NOT NULL, --
    width        INTEGER NOT NULL, -- its own size, pixels
    height       INTEGER NOT NULL, --
    animated     INTEGER NOT NULL, -- 1: with all frames (MSC2705)
    sha256       BLOB    NOT NULL, -- name of its blob, 32 bytes
    size         INTEGER NOT NULL, -- length of its blob, bytes
    content_type TEXT    NOT NULL, -- what its bytes are
    created_ms   INTEGER NOT NULL, -- when it was made
    PRIMARY KEY (source, width, height, crop_x, crop_y, crop_width, crop_height, animated),
    CHECK (length(source) = 32),
    CHECK (length(sha256) = 32),
    CHECK (animated IN (0, 1))
) STRICT, WITHOUT ROWID;

-- Whether a thumbnail holds a blob, before it is removed.
CREATE INDEX thumbnail_by_sha256 ON thumbnail (sha256);
