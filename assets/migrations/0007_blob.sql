-- Blobs as things of their own: the unit of accounting, of eviction and of quarantine. This table and the sums below it are written by the
-- triggers at the end of this file and by nothing else, apart from `state` and `last_access_ms`: no writer of `media` or
-- `thumbnail` can forget them.
--
-- `INSERT OR REPLACE` into `media` or `thumbnail` is not allowed: SQLite deletes the replaced row without firing its trigger
-- unless `recursive_triggers` is on, as it is on the service's own connection.

-- One row for each blob that `media` or `thumbnail` refers to, and for each that is quarantined, whether it is here or not.
CREATE TABLE blob (
    sha256         BLOB    NOT NULL PRIMARY KEY, -- its name under blobs/, 32 bytes
    size           INTEGER NOT NULL,             -- its length, bytes; 0: quarantined and never seen
    created_ms     INTEGER NOT NULL,             -- when the first row came that refers to it
    last_access_ms INTEGER NOT NULL,             -- when it was last served for any of its rows; as exact as media.last_access_ms
    state          INTEGER NOT NULL DEFAULT 0,   -- 0: live; 1: quarantined, so that this row stays when no row refers to it
    locals         INTEGER NOT NULL DEFAULT 0,   -- how many rows of media uploaded here refer to it
    remotes        INTEGER NOT NULL DEFAULT 0,   -- how many rows of other servers' media
    previews       INTEGER NOT NULL DEFAULT 0,   -- how many rows of preview images
    thumbnails     INTEGER NOT NULL DEFAULT 0,   -- how many rows of thumbnail
    kind           TEXT    AS (                  -- what it counts as, whole: the first kind that has a row; NULL: nothing refers to it
        CASE WHEN locals > 0 THEN 'local' WHEN remotes > 0 THEN 'remote' WHEN previews > 0 THEN 'preview' WHEN thumbnails > 0 THEN 'thumbnail' END
    ) VIRTUAL,
    CHECK (length(sha256) = 32),
    CHECK (state IN (0, 1))
) STRICT, WITHOUT ROWID;

-- What the store holds, by kind. Four rows.
CREATE TABLE kind_usage (
    kind  TEXT    NOT NULL PRIMARY KEY, -- local: uploaded here; remote: other servers'; preview: images of linked pages; thumbnail
    files INTEGER NOT NULL,             -- filled media IDs of this kind, or thumbnails
    blobs INTEGER NOT NULL,             -- blobs that count as this kind (blob.kind); each blob counts once over all kinds
    bytes INTEGER NOT NULL              -- sizes of those blobs together
) STRICT, WITHOUT ROWID;

INSERT INTO kind_usage (kind, files, blobs, bytes)
VALUES ('local', 0, 0, 0), ('remote', 0, 0, 0), ('preview', 0, 0, 0), ('thumbnail', 0, 0, 0);

-- What each user has uploaded here. Every media ID counts its whole size: that others have the same file does not show.
CREATE TABLE user_usage (
    user_id TEXT    NOT NULL PRIMARY KEY, -- uploader
    files   INTEGER NOT NULL,             -- filled media IDs
    bytes   INTEGER NOT NULL,             -- their sizes together
    pending INTEGER NOT NULL              -- media IDs created and not filled, expired ones included until their rows go
) STRICT, WITHOUT ROWID;

-- What is kept of each other server's media.
CREATE TABLE server_usage (
    server_name TEXT    NOT NULL PRIMARY KEY, -- origin
    files       INTEGER NOT NULL,             -- media IDs
    bytes       INTEGER NOT NULL              -- their sizes together; less is freed where IDs share a blob
) STRICT, WITHOUT ROWID;

-- What is here already. The sums follow from it once, and from the triggers after that.
INSERT INTO blob (sha256, size, created_ms, last_access_ms, locals, remotes, previews, thumbnails)
SELECT sha256, max(size), min(created_ms), max(last_access_ms), sum(is_local), sum(is_remote), sum(is_preview), sum(is_thumbnail)
FROM (
    SELECT sha256, size, created_ms, last_access_ms, preview = 0 AND user_id IS NOT NULL AS is_local,
           preview = 0 AND user_id IS NULL AS is_remote, preview AS is_preview, 0 AS is_thumbnail
    FROM media WHERE sha256 IS NOT NULL
    UNION ALL
    SELECT sha256, size, created_ms, created_ms, 0, 0, 0, 1 FROM thumbnail
)
GROUP BY sha256;

UPDATE kind_usage SET
    files = CASE kind
        WHEN 'local' THEN (SELECT coalesce(sum(locals), 0) FROM blob)
        WHEN 'remote' THEN (SELECT coalesce(sum(remotes), 0) FROM blob)
        WHEN 'preview' THEN (SELECT coalesce(sum(previews), 0) FROM blob)
        ELSE (SELECT coalesce(sum(thumbnails), 0) FROM blob) END,
    blobs = (SELECT count(*) FROM blob WHERE blob.kind = kind_usage.kind),
    bytes = (SELECT coalesce(sum(size), 0) FROM blob WHERE blob.kind = kind_usage.kind);

INSERT INTO user_usage (user_id, files, bytes, pending)
SELECT user_id, count(sha256), coalesce(sum(size), 0), count(*) - count(sha256)
FROM media WHERE user_id IS NOT NULL AND preview = 0 GROUP BY user_id;

INSERT INTO server_usage (server_name, files, bytes)
SELECT server_name, count(*), sum(size)
FROM media WHERE user_id IS NULL AND preview = 0 AND sha256 IS NOT NULL GROUP BY server_name;

-- What goes next when room is made: blobs that can be fetched or made again, the longest unused first.
CREATE INDEX blob_remote_by_access ON blob (last_access_ms) WHERE kind = 'remote';
CREATE INDEX blob_thumbnail_by_access ON blob (last_access_ms) WHERE kind = 'thumbnail';

-- A row of media comes.
CREATE TRIGGER media_inserted AFTER INSERT ON media BEGIN
    INSERT INTO blob (sha256, size, created_ms, last_access_ms, locals, remotes, previews)
    SELECT NEW.sha256, NEW.size, NEW.created_ms, NEW.last_access_ms, NEW.preview = 0 AND NEW.user_id IS NOT NULL,
           NEW.preview = 0 AND NEW.user_id IS NULL, NEW.preview
    WHERE NEW.sha256 IS NOT NULL
    ON CONFLICT DO UPDATE SET
        size = iif(kind IS NULL, excluded.size, size), created_ms = iif(kind IS NULL, excluded.created_ms, created_ms),
        last_access_ms = max(last_access_ms, excluded.last_access_ms), locals = locals + excluded.locals,
        remotes = remotes + excluded.remotes, previews = previews + excluded.previews;
    INSERT INTO user_usage (user_id, files, bytes, pending)
    SELECT NEW.user_id, NEW.sha256 IS NOT NULL, coalesce(NEW.size, 0), NEW.sha256 IS NULL
    WHERE NEW.user_id IS NOT NULL AND NEW.preview = 0
    ON CONFLICT DO UPDATE SET
        files = files + excluded.files, bytes = bytes + excluded.bytes, pending = pending + excluded.pending;
    INSERT INTO server_usage (server_name, files, bytes)
    SELECT NEW.server_name, 1, NEW.size WHERE NEW.user_id IS NULL AND NEW.preview = 0 AND NEW.sha256 IS NOT NULL
    ON CONFLICT DO UPDATE SET files = files + 1, bytes = bytes + excluded.bytes;
END;

-- A row of media goes.
CREATE TRIGGER media_deleted AFTER DELETE ON media BEGIN
    UPDATE blob SET locals = locals - (OLD.preview = 0 AND OLD.user_id IS NOT NULL),
                    remotes = remotes - (OLD.preview = 0 AND OLD.user_id IS NULL), previews = previews - OLD.preview
    WHERE sha256 = OLD.sha256;
    DELETE FROM blob WHERE sha256 = OLD.sha256 AND kind IS NULL AND state = 0;
    UPDATE user_usage SET files = files - (OLD.sha256 IS NOT NULL), bytes = bytes - coalesce(OLD.size, 0),
                          pending = pending - (OLD.sha256 IS NULL)
    WHERE user_id = OLD.user_id AND OLD.preview = 0;
    DELETE FROM user_usage WHERE user_id = OLD.user_id AND files = 0 AND pending = 0;
    UPDATE server_usage SET files = files - 1, bytes = bytes - OLD.size
    WHERE server_name = OLD.server_name AND OLD.user_id IS NULL AND OLD.preview = 0 AND OLD.sha256 IS NOT NULL;
    DELETE FROM server_usage WHERE server_name = OLD.server_name AND files = 0;
END;

-- A row of media is filled, or filled anew. The new blob is counted before the old one, so that one that stays keeps its row.
CREATE TRIGGER media_filled AFTER UPDATE OF server_name, sha256, size, user_id, preview ON media
WHEN NEW.sha256 IS NOT OLD.sha256 OR NEW.size IS NOT OLD.size OR NEW.user_id IS NOT OLD.user_id OR NEW.preview <> OLD.preview
     OR NEW.server_name <> OLD.server_name
BEGIN
    INSERT INTO blob (sha256, size, created_ms, last_access_ms, locals, remotes, previews)
    SELECT NEW.sha256, NEW.size, NEW.created_ms, NEW.last_access_ms, NEW.preview = 0 AND NEW.user_id IS NOT NULL,
           NEW.preview = 0 AND NEW.user_id IS NULL, NEW.preview
    WHERE NEW.sha256 IS NOT NULL
    ON CONFLICT DO UPDATE SET
        size = iif(kind IS NULL, excluded.size, size), created_ms = iif(kind IS NULL, excluded.created_ms, created_ms),
        last_access_ms = max(last_access_ms, excluded.last_access_ms), locals = locals + excluded.locals,
        remotes = remotes + excluded.remotes, previews = previews + excluded.previews;
    INSERT INTO user_usage (user_id, files, bytes, pending)
    SELECT NEW.user_id, NEW.sha256 IS NOT NULL, coalesce(NEW.size, 0), NEW.sha256 IS NULL
    WHERE NEW.user_id IS NOT NULL AND NEW.preview = 0
    ON CONFLICT DO UPDATE SET
        files = files + excluded.files, bytes = bytes + excluded.bytes, pending = pending + excluded.pending;
    INSERT INTO server_usage (server_name, files, bytes)
    SELECT NEW.server_name, 1, NEW.size WHERE NEW.user_id IS NULL AND NEW.preview = 0 AND NEW.sha256 IS NOT NULL
    ON CONFLICT DO UPDATE SET files = files + 1, bytes = bytes + excluded.bytes;
    UPDATE blob SET locals = locals - (OLD.preview = 0 AND OLD.user_id IS NOT NULL),
                    remotes = remotes - (OLD.preview = 0 AND OLD.user_id IS NULL), previews = previews - OLD.preview
    WHERE sha256 = OLD.sha256;
    DELETE FROM blob WHERE sha256 = OLD.sha256 AND kind IS NULL AND state = 0;
    UPDATE user_usage SET files = files - (OLD.sha256 IS NOT NULL), bytes = bytes - coalesce(OLD.size, 0),
                          pending = pending - (OLD.sha256 IS NULL)
    WHERE user_id = OLD.user_id AND OLD.preview = 0;
    DELETE FROM user_usage WHERE user_id = OLD.user_id AND files = 0 AND pending = 0;
    UPDATE server_usage SET files = files - 1, bytes = bytes - OLD.size
    WHERE server_name = OLD.server_name AND OLD.user_id IS NULL AND OLD.preview = 0 AND OLD.sha256 IS NOT NULL;
    DELETE FROM server_usage WHERE server_name = OLD.server_name AND files = 0;
END;

-- Media is served.
CREATE TRIGGER media_accessed AFTER UPDATE OF last_access_ms ON media BEGIN
    UPDATE blob SET last_access_ms = NEW.last_access_ms
    WHERE sha256 = NEW.sha256 AND last_access_ms < NEW.last_access_ms;
END;

-- A thumbnail comes.
CREATE TRIGGER thumbnail_inserted AFTER INSERT ON thumbnail BEGIN
    INSERT INTO blob (sha256, size, created_ms, last_access_ms, thumbnails)
    VALUES (NEW.sha256, NEW.size, NEW.created_ms, NEW.created_ms, 1)
    ON CONFLICT DO UPDATE SET
        size = iif(kind IS NULL, excluded.size, size), created_ms = iif(kind IS NULL, excluded.created_ms, created_ms),
        last_access_ms = max(last_access_ms, excluded.last_access_ms), thumbnails = thumbnails + 1;
END;

-- A thumbnail goes.
CREATE TRIGGER thumbnail_deleted AFTER DELETE ON thumbnail BEGIN
    UPDATE blob SET thumbnails = thumbnails - 1 WHERE sha256 = OLD.sha256;
    DELETE FROM blob WHERE sha256 = OLD.sha256 AND kind IS NULL AND state = 0;
END;

-- A thumbnail is made anew.
CREATE TRIGGER thumbnail_replaced AFTER UPDATE OF sha256 ON thumbnail WHEN NEW.sha256 <> OLD.sha256 BEGIN
    INSERT INTO blob (sha256, size, created_ms, last_access_ms, thumbnails)
    VALUES (NEW.sha256, NEW.size, NEW.created_ms, NEW.created_ms, 1)
    ON CONFLICT DO UPDATE SET
        size = iif(kind IS NULL, excluded.size, size), created_ms = iif(kind IS NULL, excluded.created_ms, created_ms),
        last_access_ms = max(last_access_ms, excluded.last_access_ms), thumbnails = thumbnails + 1;
    UPDATE blob SET thumbnails = thumbnails - 1 WHERE sha256 = OLD.sha256;
    DELETE FROM blob WHERE sha256 = OLD.sha256 AND kind IS NULL AND state = 0;
END;

-- The sums by kind follow the table of blobs. All four rows stand on one page.
CREATE TRIGGER blob_inserted AFTER INSERT ON blob WHEN NEW.kind IS NOT NULL BEGIN
    UPDATE kind_usage SET
        files = files + CASE kind WHEN 'local' THEN NEW.locals WHEN 'remote' THEN NEW.remotes
                                  WHEN 'preview' THEN NEW.previews ELSE NEW.thumbnails END,
        blobs = blobs + (kind = NEW.kind),
        bytes = bytes + iif(kind = NEW.kind, NEW.size, 0);
END;

CREATE TRIGGER blob_updated AFTER UPDATE OF size, locals, remotes, previews, thumbnails ON blob BEGIN
    UPDATE kind_usage SET
        files = files + CASE kind WHEN 'local' THEN NEW.locals - OLD.locals WHEN 'remote' THEN NEW.remotes - OLD.remotes
                                  WHEN 'preview' THEN NEW.previews - OLD.previews ELSE NEW.thumbnails - OLD.thumbnails END,
        blobs = blobs + (kind IS NEW.kind) - (kind IS OLD.kind),
        bytes = bytes + iif(kind IS NEW.kind, NEW.size, 0) - iif(kind IS OLD.kind, OLD.size, 0);
END;
