-- The catalog's first schema. Times are milliseconds since 1970-01-01T00:00:00Z, sizes are bytes.

-- One row for each media ID known, local or remote. Bytes lie under blobs/, named by sha256; several rows may share
-- them. A row whose blob is missing is a bug, a blob without a row is garbage.
CREATE TABLE media (
    server_name    TEXT    NOT NULL, -- origin: first segment of the MXC URI (spec, appendices, server name)
    media_id       TEXT    NOT NULL, -- second segment: A-Za-z0-9_- (spec, MXC URI)
    sha256         BLOB,             -- name of the blob, 32 bytes; NULL: created and not yet filled (MSC2246)
    size           INTEGER,          -- length of the blob, bytes; NULL with sha256
    content_type   TEXT    NOT NULL, -- Content-Type as the uploader claimed it
    upload_name    TEXT,             -- file name as the uploader gave it
    user_id        TEXT,             -- uploader, for local media; NULL for remote media
    created_ms     INTEGER NOT NULL, -- when the ID was made here, or the remote file fetched
    expires_ms     INTEGER,          -- when a pending ID ends (MSC2246 unused_expires_at); NULL once filled
    last_access_ms INTEGER NOT NULL, -- when it was last served, up to 25 h ago: written by the hour, if a day later than before
    open           INTEGER NOT NULL, -- 1: may be served without a token (stored while unauthenticated_media was open)
    PRIMARY KEY (server_name, media_id),
    CHECK (sha256 IS NULL OR length(sha256) = 32),
    CHECK ((sha256 IS NULL) = (size IS NULL)),
    CHECK ((sha256 IS NULL) = (expires_ms IS NOT NULL)),
    CHECK (open IN (0, 1))
) STRICT, WITHOUT ROWID;

-- Who else holds a blob, before it is removed.
CREATE INDEX media_by_sha256 ON media (sha256) WHERE sha256 IS NOT NULL;

-- How many IDs a user has pending, and which have expired.
CREATE INDEX media_pending ON media (user_id, expires_ms) WHERE sha256 IS NULL;

-- Verify keys of other servers (spec, Publishing Keys). Only keys in verify_keys are here, never old_verify_keys.
CREATE TABLE server_key (
    server_name    TEXT    NOT NULL, -- whose key
    key_id         TEXT    NOT NULL, -- ed25519:version
    public_key     BLOB    NOT NULL, -- 32 bytes
    valid_until_ms INTEGER NOT NULL, -- min(valid_until_ts, fetched_ms + 7 days): no request is accepted after it
    fetched_ms     INTEGER NOT NULL, -- when the key document was fetched
    PRIMARY KEY (server_name, key_id),
    CHECK (length(public_key) = 32)
) STRICT, WITHOUT ROWID;
