//! What is read of an answer: a page, a file, an image to keep, an oEmbed description. Each of these steps blocks.

use std::io::{self, BufReader, Cursor, Read};
use std::time::Instant;

use url::Url;

use crate::config;
use crate::error::{Error, Kind, Result};
use crate::matrix::len_u64;
use crate::media::Media;
use crate::preview::{self, BodyKind, FetchedBody, HttpUrl, MAX_OEMBED, OembedResponse, Page};
use crate::store::blobs::{BlobCursor, Ingest, IngestError};
use crate::thumbnail::{self, Header, Limits, Source, ThumbnailError};

/// Enough of a body to tell what it is, bytes.
const HEAD: u64 = 512;

/// How much of an image is written at once, bytes.
const CHUNK: usize = 32 * 1024;

/// Smallest side of an image that shows something, pixels. Less is a spacer or counts visitors.
const MIN_SIDE: u32 = 16;

/// Side from which on no larger image is looked for, pixels: about what clients give it.
const LARGE_SIDE: u32 = 200;

/// What a link leads to.
#[derive(Debug)]
pub(super) struct LinkTarget {
    /// What it says of itself.
    pub(super) page: Page,
    /// The target itself, if it looks like an image.
    pub(super) unverified: Option<UnverifiedImage>,
    /// The same once it is decoded.
    pub(super) image: Option<VerifiedImage>,
    /// Whether its address belongs to a site that is known to speak oEmbed.
    pub(super) is_of_known_site: bool,
    /// Whether it ended early: it broke off, or there was no more time.
    pub(super) is_cut_off: bool,
}

/// A file with the header of an image that can be shown, on disk and not yet stored: dropped, it is gone. A header says little of the
/// bytes behind it: only what was decoded becomes a [`VerifiedImage`].
#[derive(Debug)]
pub(super) struct UnverifiedImage {
    image: VerifiedImage,
    header: Header,
}

/// An image that can be shown, on disk and not yet stored: dropped, it is gone.
#[derive(Debug)]
pub(super) struct VerifiedImage {
    pub(super) ingest: Ingest,
    /// By its first bytes.
    pub(super) content_type: &'static str,
    /// Pixels after orientation.
    pub(super) width: u32,
    /// Pixels after orientation.
    pub(super) height: u32,
}

impl Media {
    /// Reads what a link leads to. Its first bytes decide what it is, whatever it is called.
    pub(super) fn read_link(&self, fetched: FetchedBody) -> Result<LinkTarget> {
        let FetchedBody { url, content_type, disposition, refresh, size, deadline, body } = fetched;
        let (head, mut body) = head_of(body)?;
        let claimed = content_type.as_deref();
        let kind = preview::media_type(&head, claimed);
        let describe = |kind: &str, size| Page {
            // It has been looked at: whether it can be shown is known.
            images: Vec::new(),
            ..preview::describe_file(&url, disposition.as_deref(), Some(kind), size)
        };
        let mut broke_off = false;
        let (mut page, unverified) = match preview::sniff(&head, claimed) {
            _ if head.is_empty() => (Page::default(), None),
            BodyKind::Html => {
                let mut body = WatchedBody {
                    inner: body.take(self.previews.rules().config.max_page.0),
                    broke_off: false,
                };
                let page = preview::read_page(&mut body, claimed, &url).map_err(preview::body_error)?;
                broke_off = body.broke_off;
                (page, None)
            }
            BodyKind::Image => match self.receive_image(&mut body) {
                Ok(unverified) => {
                    let VerifiedImage { content_type, ingest, .. } = &unverified.image;
                    (describe(content_type, Some(ingest.size())), Some(unverified))
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
        let is_of_known_site = self.previews.rules().providers.endpoint(&url).is_some();
        let is_cut_off = is_late || broke_off;
        Ok(LinkTarget { page, unverified, image: None, is_of_known_site, is_cut_off })
    }

    /// Receives an image that a page shows.
    ///
    /// # Errors
    /// `PageFailed` for what is no image, one with a broken header, one that is too large or too small.
    pub(super) fn read_image(&self, fetched: FetchedBody) -> Result<UnverifiedImage> {
        let (head, mut body) = head_of(fetched.body)?;
        if preview::sniff(&head, fetched.content_type.as_deref()) != BodyKind::Image {
            return Err(unfit("it is no image"));
        }
        check_side(self.receive_image(&mut body)?)
    }

    /// Receives an image that stands in the page itself, as a `data:` URL.
    ///
    /// # Errors
    /// Those of [`Self::read_image`].
    pub(super) fn read_data_image(&self, url: &Url) -> Result<UnverifiedImage> {
        let bytes = preview::read_data_url(url, self.previews.rules().config.max_image.0);
        let bytes = bytes.ok_or_else(|| unfit("it is not in the page"))?;
        check_side(self.receive_image(&mut Cursor::new(bytes))?)
    }

    /// Decodes an image, until `deadline` at most.
    ///
    /// # Errors
    /// `PageFailed` for one that cannot be decoded.
    pub(super) fn decode_image(&self, image: UnverifiedImage, deadline: Instant) -> Result<VerifiedImage> {
        let UnverifiedImage { image, header } = image;
        let limits = Limits { deadline: Some(deadline), ..self.thumbnail_limits() };
        match thumbnail::verify(&mut reader(&image.ingest)?, &header, &limits) {
            Ok(()) => Ok(image),
            Err(ThumbnailError::Io(error)) => Err(Error::internal("reading a preview image", error)),
            Err(error) => Err(unfit("it cannot be decoded").caused_by(error)),
        }
    }

    /// Reads an oEmbed description.
    ///
    /// # Errors
    /// `PageFailed` for what is none, or too long.
    #[expect(clippy::unused_self, reason = "one of the ways to read an answer")]
    pub(super) fn read_oembed(&self, fetched: FetchedBody) -> Result<OembedResponse> {
        let mut json = Vec::new();
        fetched
            .body
            .take(len_u64(MAX_OEMBED).saturating_add(1))
            .read_to_end(&mut json)
            .map_err(preview::body_error)?;
        let json = preview::json_to_utf8(json, fetched.content_type.as_deref());
        let none = || Error::new(Kind::PageFailed, "the site's oEmbed response is malformed");
        preview::parse_oembed(&json, &fetched.url).ok_or_else(none)
    }

    /// Writes an image to the disk and reads its header. One that takes more than all stored images may (`previews.max_stored`) is too
    /// large.
    pub(super) fn receive_image(&self, body: &mut dyn Read) -> Result<UnverifiedImage> {
        let rules = self.previews.rules();
        let config::Previews { max_image, max_stored, .. } = &rules.config;
        let mut ingest = self.store.begin(max_image.0.min(max_stored.0), None).map_err(storing)?;
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
        let image = VerifiedImage { ingest, content_type: header.content_type(), width, height };
        Ok(UnverifiedImage { image, header })
    }
}

impl LinkTarget {
    /// The target itself, to be decoded.
    pub(super) fn take_unverified(&mut self) -> Option<UnverifiedImage> {
        self.unverified.take()
    }

    /// Notes that the target itself is an image that can be shown.
    pub(super) fn set_image(&mut self, image: VerifiedImage) {
        self.image = Some(image);
    }

    /// Notes that it was not read to its end.
    pub(super) fn mark_cut_off(&mut self) {
        self.is_cut_off = true;
    }

    /// Where it leads, if it is a page that only leads elsewhere.
    pub(super) fn refresh(&self) -> Option<HttpUrl> {
        HttpUrl::parse(self.page.refresh.as_ref()?.as_str()).ok()
    }
}

impl UnverifiedImage {
    /// Bytes of memory that decoding it takes.
    pub(super) fn memory(&self) -> u64 {
        thumbnail::estimate(&self.header, &[thumbnail::cheapest_spec(&self.header)])
    }
}

impl VerifiedImage {
    pub(super) fn pixels(&self) -> u64 {
        u64::from(self.width).saturating_mul(self.height.into())
    }

    /// Whether it is large enough not to look for a larger one.
    pub(super) fn is_large(&self) -> bool {
        self.width.min(self.height) >= LARGE_SIDE
    }

    pub(super) fn size(&self) -> u64 {
        self.ingest.size()
    }
}

/// Refuses an image that is too small to show something.
fn check_side(unverified: UnverifiedImage) -> Result<UnverifiedImage> {
    if unverified.image.width.min(unverified.image.height) < MIN_SIDE {
        return Err(unfit("it is too small to show anything"));
    }
    Ok(unverified)
}

/// The first bytes of a body, and the whole of it, an error in the middle included.
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

/// The error of a body that broke off within its first bytes, given once.
struct Break(Option<io::Error>);

impl Read for Break {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        self.0.take().map_or(Ok(0), Err)
    }
}

/// Notes whether a body broke off.
struct WatchedBody<R> {
    inner: R,
    broke_off: bool,
}

impl<R: Read> Read for WatchedBody<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer);
        self.broke_off |= read.as_ref().is_err_and(|error| error.kind() != io::ErrorKind::Interrupted);
        read
    }
}

/// What was received, from its start.
fn reader(ingest: &Ingest) -> Result<BufReader<BlobCursor>> {
    Ok(BufReader::with_capacity(CHUNK, ingest.reader().map_err(storing)?.cursor()))
}

fn storing(error: io::Error) -> Error {
    Error::internal("storing a preview image", error)
}

/// An image that is left out, and why.
fn unfit(why: &'static str) -> Error {
    Error::new(Kind::PageFailed, "the image cannot be shown").caused_by(io::Error::other(why))
}
