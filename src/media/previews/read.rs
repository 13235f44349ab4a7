//! What is read of what comes: a page, a file, a picture to keep, an oEmbed description.

use std::io::{self, BufReader, Cursor, Read};
use std::time::Instant;

use url::Url;

use crate::config;
use crate::error::{Error, Kind, Result};
use crate::matrix::len_u64;
use crate::media::Library;
use crate::preview::MAX_OEMBED;
use crate::preview::{self, BodyKind, FetchedBody, HttpUrl, OembedResponse, Page};
use crate::store::blobs::{BlobCursor, Ingest, IngestError};
use crate::thumbnail::{self, Header, Limits, Source, ThumbnailError};

/// Enough of a body to tell what it is, bytes.
const HEAD: u64 = 512;

/// How much of a picture is moved at once, bytes.
const CHUNK: usize = 32 * 1024;

/// Smallest side of a picture that shows something, pixels. Less is a spacer or counts visitors.
const MIN_SIDE: u32 = 16;

/// Side of a picture that shows something well, pixels: about what clients give it.
const GOOD_SIDE: u32 = 200;

/// What a link leads to.
#[derive(Debug)]
pub(crate) struct Reading {
    /// What it says of itself.
    pub(super) page: Page,
    /// The thing itself, if it looks like a picture.
    pub(super) candidate: Option<Candidate>,
    /// The same once it is proven.
    pub(super) picture: Option<Picture>,
    /// Whether its own address is one of a site that is known to speak oEmbed.
    pub(super) is_of_known_site: bool,
    /// Whether it broke off, or the time was over, before its end.
    pub(super) is_cut_off: bool,
}

/// What has the header of a picture that can be shown, on disk and not yet stored: dropped, it is gone. A header says little
/// of the bytes behind it: only what was decoded becomes a [`Picture`].
#[derive(Debug)]
pub(crate) struct Candidate {
    /// What it is to become.
    picture: Picture,
    /// Its header.
    header: Header,
}

/// A picture that can be shown, on disk and not yet stored: dropped, it is gone.
#[derive(Debug)]
pub(crate) struct Picture {
    /// Its bytes.
    pub(super) ingest: Ingest,
    /// What they are.
    pub(super) content_type: &'static str,
    /// Columns as seen.
    pub(super) width: u32,
    /// Rows as seen.
    pub(super) height: u32,
}

impl Library {
    /// Reads what a link leads to: first bytes decide what it is, whatever it is called.
    pub(crate) fn read_link(&self, landing: FetchedBody) -> Result<Reading> {
        let FetchedBody { url, content_type, disposition, refresh, size, deadline, body } = landing;
        let (head, mut body) = head_of(body)?;
        let claimed = content_type.as_deref();
        let kind = preview::media_type(&head, claimed);
        let describe = |kind: &str, size| Page {
            // It has been looked at: whether it can be shown is known.
            images: Vec::new(),
            ..preview::describe_file(&url, disposition.as_deref(), Some(kind), size)
        };
        let mut broke_off = false;
        let (mut page, candidate) = match preview::sniff(&head, claimed) {
            _ if head.is_empty() => (Page::default(), None),
            BodyKind::Html => {
                let mut body =
                    Watched { inner: body.take(self.desk.rules.get().config.max_page.0), broke_off: false };
                let page = preview::read_page(&mut body, claimed, &url).map_err(preview::body_error)?;
                broke_off = body.broke_off;
                (page, None)
            }
            BodyKind::Image => match self.take_picture(&mut body) {
                Ok(candidate) => {
                    let Picture { content_type, ingest, .. } = &candidate.picture;
                    (describe(content_type, Some(ingest.size())), Some(candidate))
                }
                // Still a file with a name.
                Err(error) if matches!(error.kind(), Kind::PageFailed | Kind::PageUnavailable) => {
                    broke_off = error.kind() == Kind::PageUnavailable;
                    (describe(&kind, size), None)
                }
                Err(error) => return Err(error),
            },
            BodyKind::Json | BodyKind::File => (describe(&kind, size), None),
        };
        if page == Page::default() {
            page.refresh = refresh.and_then(|header| preview::refresh_target(&url, &header));
        }
        let is_late = deadline <= Instant::now();
        if is_late && page == Page::default() {
            return Err(preview::timed_out());
        }
        let is_of_known_site = self.desk.rules.get().providers.endpoint(&url).is_some();
        let is_cut_off = is_late || broke_off;
        Ok(Reading { page, candidate, picture: None, is_of_known_site, is_cut_off })
    }

    /// Takes in a picture that a page shows.
    ///
    /// # Errors
    /// `PageFailed` for what is no picture, one with a broken header, one that is too large or too small.
    pub(crate) fn read_image(&self, landing: FetchedBody) -> Result<Candidate> {
        let (head, mut body) = head_of(landing.body)?;
        if preview::sniff(&head, landing.content_type.as_deref()) != BodyKind::Image {
            return Err(unfit("it is no picture"));
        }
        fit(self.take_picture(&mut body)?)
    }

    /// Takes in a picture that stands in the page itself.
    ///
    /// # Errors
    /// Those of [`Self::read_image`].
    pub(crate) fn read_embedded_image(&self, url: &Url) -> Result<Candidate> {
        let bytes = preview::read_data_url(url, self.desk.rules.get().config.max_image.0);
        let bytes = bytes.ok_or_else(|| unfit("it is not in the page"))?;
        fit(self.take_picture(&mut Cursor::new(bytes))?)
    }

    /// Decodes what looks like a picture, until `deadline` at most. Blocks for as long as that takes.
    ///
    /// # Errors
    /// `PageFailed` for one that cannot be decoded.
    pub(crate) fn prove(&self, candidate: Candidate, deadline: Instant) -> Result<Picture> {
        let Candidate { picture, header } = candidate;
        let limits = Limits { deadline: Some(deadline), ..self.thumbnail_limits() };
        match thumbnail::verify(&mut reader(&picture.ingest)?, &header, &limits) {
            Ok(()) => Ok(picture),
            Err(ThumbnailError::Io(error)) => Err(Error::internal("reading a preview image", error)),
            Err(error) => Err(unfit("it cannot be decoded").caused_by(error)),
        }
    }

    /// Reads an oEmbed description.
    ///
    /// # Errors
    /// `PageFailed` for what is none, or too long.
    #[expect(clippy::unused_self, reason = "one of the ways to read a landing")]
    pub(crate) fn read_oembed(&self, landing: FetchedBody) -> Result<OembedResponse> {
        let mut json = Vec::new();
        landing
            .body
            .take(len_u64(MAX_OEMBED).saturating_add(1))
            .read_to_end(&mut json)
            .map_err(preview::body_error)?;
        let json = preview::json_to_utf8(json, landing.content_type.as_deref());
        let none = || Error::new(Kind::PageFailed, "the site's oEmbed answer is malformed");
        preview::parse_oembed(&json, &landing.url).ok_or_else(none)
    }

    /// Moves a picture to the disk and looks at its header. One that would not fit if all others went is too large.
    pub(crate) fn take_picture(&self, body: &mut dyn Read) -> Result<Candidate> {
        let rules = self.desk.rules.get();
        let config::Previews { max_image, max_stored, .. } = &rules.config;
        let mut ingest = self.blobs.ingest(max_image.0.min(max_stored.0), None).map_err(storing)?;
        let mut chunk = vec![0; CHUNK];
        loop {
            let count = body.read(&mut chunk).map_err(preview::body_error)?;
            if count == 0 {
                break;
            }
            ingest.write(chunk.get(..count).unwrap_or_default()).map_err(|error| match error {
                IngestError::TooLarge(_) => unfit("it is too large"),
                IngestError::Io(error) => storing(error),
            })?;
        }
        let header = thumbnail::probe(&mut reader(&ingest)?)
            .map_err(|error| unfit("its header is broken").caused_by(error))?;
        thumbnail::check_limits(&header, &[thumbnail::cheapest_spec(&header)], &self.thumbnail_limits())
            .map_err(|error| unfit("no thumbnail could be made of it").caused_by(error))?;
        let Source { width, height, .. } = header.source();
        let picture = Picture { ingest, content_type: header.content_type(), width, height };
        Ok(Candidate { picture, header })
    }
}

impl Reading {
    /// The thing itself, to be proven.
    pub(crate) fn take_candidate(&mut self) -> Option<Candidate> {
        self.candidate.take()
    }

    /// Notes that it can be shown.
    pub(crate) fn show(&mut self, picture: Picture) {
        self.picture = Some(picture);
    }

    /// Notes that a part of it is late.
    pub(crate) fn is_late(&mut self) {
        self.is_cut_off = true;
    }

    /// Where it leads at once, saying nothing of itself.
    pub(crate) fn refresh(&self) -> Option<HttpUrl> {
        HttpUrl::parse(self.page.refresh.as_ref()?.as_str()).ok()
    }
}

impl Candidate {
    /// Bytes of memory that proving it takes.
    pub(crate) fn memory(&self) -> u64 {
        thumbnail::estimate(&self.header, &[thumbnail::cheapest_spec(&self.header)])
    }
}

impl Picture {
    /// Columns times rows.
    pub(crate) fn pixels(&self) -> u64 {
        u64::from(self.width).saturating_mul(self.height.into())
    }

    /// Whether it is large enough not to look for a larger one.
    pub(crate) fn shows_well(&self) -> bool {
        self.width.min(self.height) >= GOOD_SIDE
    }

    /// Bytes.
    pub(super) fn size(&self) -> u64 {
        self.ingest.size()
    }
}

/// A picture that is large enough to show something.
fn fit(candidate: Candidate) -> Result<Candidate> {
    if candidate.picture.width.min(candidate.picture.height) < MIN_SIDE {
        return Err(unfit("it is too small to show anything"));
    }
    Ok(candidate)
}

/// The first bytes of a body, and the whole of it.
fn head_of(mut body: Box<dyn Read + Send>) -> Result<(Vec<u8>, impl Read)> {
    let mut head = Vec::new();
    let mut broken = None;
    match body.by_ref().take(HEAD).read_to_end(&mut head) {
        Ok(_) => {}
        Err(error) if head.is_empty() => return Err(preview::body_error(error)),
        Err(error) => broken = Some(error),
    }
    Ok((head.clone(), Cursor::new(head).chain(Break(broken)).chain(body)))
}

/// The place where a body broke off, if it did.
struct Break(Option<io::Error>);

impl Read for Break {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        self.0.take().map_or(Ok(0), Err)
    }
}

/// Notes whether a body broke off.
struct Watched<R> {
    /// The body.
    inner: R,
    /// Whether reading it failed.
    broke_off: bool,
}

impl<R: Read> Read for Watched<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer);
        self.broke_off |= read.as_ref().is_err_and(|error| error.kind() != io::ErrorKind::Interrupted);
        read
    }
}

/// What was taken in, from its start.
fn reader(ingest: &Ingest) -> Result<BufReader<BlobCursor>> {
    Ok(BufReader::with_capacity(CHUNK, ingest.reader().map_err(storing)?.cursor()))
}

/// The disk failed.
fn storing(error: io::Error) -> Error {
    Error::internal("storing a preview image", error)
}

/// A picture that is left out.
fn unfit(why: &'static str) -> Error {
    Error::new(Kind::PageFailed, "the image cannot be shown").caused_by(io::Error::other(why))
}
