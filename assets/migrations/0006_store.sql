-- Which blob directory this catalog belongs to. One row. The same stands in store-id beside blobs/, so that a catalog and a
-- directory that do not belong together are noticed before anything is taken for garbage.
CREATE TABLE store (
    one      INTEGER NOT NULL PRIMARY KEY,
    id       BLOB    NOT NULL, -- 16 random bytes
    openings INTEGER NOT NULL, -- counted on at each opening, by the hour and at the end; a larger number in store-id beside blobs/: this catalog is a restored, older one
    CHECK (one = 1),
    CHECK (length(id) = 16)
) STRICT;

INSERT INTO store (one, id, openings) VALUES (1, randomblob(16), 0);

-- Blobs that were found without a row. They are kept for days, then moved to orphans/, then removed.
CREATE TABLE orphan (
    sha256   BLOB    NOT NULL PRIMARY KEY, -- name of the blob, 32 bytes
    is_aside INTEGER NOT NULL,             -- 1: moved to orphans/
    is_kept  INTEGER NOT NULL,             -- 1: never removed by itself: an older or foreign catalog may be why it has no row
    age_ms   INTEGER NOT NULL,             -- how long the service has run since it was found, or moved: no clock can jump it
    CHECK (length(sha256) = 32),
    CHECK (is_aside IN (0, 1)),
    CHECK (is_kept IN (0, 1))
) STRICT, WITHOUT ROWID;
