-- Bounds and moderation: what must not be served, what must not go, and addresses that ended for good.
ALTER TABLE media ADD COLUMN quarantined_by TEXT;             -- who quarantined it: NULL: nobody; system: it was stored with blocked content
ALTER TABLE media ADD COLUMN protected INTEGER NOT NULL DEFAULT 0 CHECK (protected IN (0, 1)); -- 1: neither quarantined nor evicted
ALTER TABLE media ADD COLUMN avatar_seen_ms INTEGER;          -- when it was last asked for as an avatar is; as exact as last_access_ms

-- Content that is quarantined wherever it turns up. It outlives the rows.
CREATE TABLE blocked_hash (
    sha256   BLOB    NOT NULL PRIMARY KEY, -- SHA-256 of the content, 32 bytes
    since_ms INTEGER NOT NULL,             -- when it was blocked
    by       TEXT    NOT NULL,             -- who blocked it
    reason   TEXT,                         -- why, in the operator's words
    CHECK (length(sha256) = 32)
) STRICT, WITHOUT ROWID;

-- Addresses that are never served, fetched or given out again.
CREATE TABLE gone (
    server_name TEXT    NOT NULL, -- origin
    media_id    TEXT    NOT NULL,
    since_ms    INTEGER NOT NULL, -- when it ended
    why         TEXT    NOT NULL, -- deleted: for good; quarantined: it was evicted under quarantine, and ends with that
    sha256      BLOB,             -- what it held, while quarantined
    PRIMARY KEY (server_name, media_id),
    CHECK (why IN ('deleted', 'quarantined')),
    CHECK ((sha256 IS NULL) = (why = 'deleted'))
) STRICT, WITHOUT ROWID;

-- Lifting a quarantine ends its tombstones.
CREATE INDEX gone_by_sha256 ON gone (sha256) WHERE sha256 IS NOT NULL;

-- How far the reading of all files for damage has come. One row.
CREATE TABLE scrub (
    one         INTEGER NOT NULL PRIMARY KEY,
    position    BLOB,             -- the last hash that was checked; NULL: none is under way
    finished_ms INTEGER NOT NULL, -- when the last one ended; 0: never
    CHECK (one = 1),
    CHECK (position IS NULL OR length(position) = 32)
) STRICT;

INSERT INTO scrub (one, position, finished_ms) VALUES (1, NULL, 0);
