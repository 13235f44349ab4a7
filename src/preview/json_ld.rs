//! [JSON-LD](https://json-ld.org/) in pages: descriptions for search engines, in the vocabulary of
//! [schema.org](https://schema.org/).
//!
//! Owns the reading of `script type="application/ld+json"`: which of its objects is the subject of the page, and that one's title,
//! description and images. Refuses to know JSON-LD contexts: nothing is fetched and no context expanded.

use serde_json::Value;

use super::image_ref::{ImageRef, pixels};

/// What the scripts of a page say.
#[derive(Debug, Default)]
pub(super) struct JsonLd {
    subject: Option<Subject>,
    /// Whether several objects of one type are described, so that none is the subject.
    is_list: bool,
    description: Option<String>,
    site_name: Option<String>,
    /// The name of the publisher, which often is that of the site.
    publisher: Option<String>,
    /// Images of the subject.
    images: Vec<ImageRef>,
    /// Images of the page object.
    page_images: Vec<ImageRef>,
}

/// The object that a page is about.
#[derive(Debug)]
struct Subject {
    /// `@type`
    kind: String,
    headline: Option<String>,
    name: Option<String>,
}

impl Subject {
    fn title(&self) -> Option<&str> {
        self.headline.as_deref().or(self.name.as_deref())
    }
}

impl JsonLd {
    /// Reads one script. One that is not JSON, apart from the usual faults, is ignored.
    pub(super) fn read(&mut self, script: &[u8]) {
        // The usual fault is a raw line break in a string. Between values it is white space, so a space does for both.
        let script: Vec<u8> = script.iter().map(|byte| if *byte < b' ' { b' ' } else { *byte }).collect();
        let between = |opens: &[u8], closes: &[u8]| {
            let start = script.iter().position(|byte| opens.contains(byte))?;
            let end = script.iter().rposition(|byte| closes.contains(byte))?;
            serde_json::from_slice::<Value>(script.get(start..=end)?).ok()
        };
        // The second attempt skips the brackets of `<![CDATA[`.
        let Some(document) = between(b"{[", b"}]").or_else(|| between(b"{", b"}")) else { return };
        let mut nodes = Vec::new();
        collect(&document, 0, &mut nodes);
        for node in &nodes {
            self.node(node, &nodes);
        }
    }

    /// The title of the subject: its headline or name, preferably the one that occurs in `document_title`. Wikis use `headline`
    /// for a description.
    pub(super) fn title(&self, document_title: Option<&str>) -> Option<&str> {
        let subject = self.subject.as_ref().filter(|_| !self.is_list)?;
        let document_title = document_title.unwrap_or_default().to_lowercase();
        // Sites append their names to the document title, so it only has to contain the text.
        let is_in_title = |text: &&str| document_title.contains(text.trim().to_lowercase().as_str());
        let headline = subject.headline.as_deref().filter(is_in_title);
        headline.or_else(|| subject.name.as_deref().filter(is_in_title)).or_else(|| subject.title())
    }

    /// The description of the subject or the page.
    pub(super) fn description(&self) -> Option<&str> {
        self.description.as_deref().filter(|_| !self.is_list)
    }

    /// The name of the site, else of the publisher.
    pub(super) fn site_name(&self) -> Option<&str> {
        self.site_name.as_deref().or(self.publisher.as_deref())
    }

    /// Images, best first.
    pub(super) fn images(&self) -> &[ImageRef] {
        if self.is_list || self.images.is_empty() { &self.page_images } else { &self.images }
    }

    /// Reads one object; `all` are those of the script, for references by `@id`.
    fn node(&mut self, node: &Value, all: &[&Value]) {
        let Some(kind) = types(node).max_by_key(|kind| Role::of(kind)) else { return };
        let text = |key: &str| node.get(key).and_then(Value::as_str).filter(|text| !text.trim().is_empty());
        match Role::of(kind) {
            Role::Subject => {
                let owned = |key| text(key).map(str::to_owned);
                let subject =
                    Subject { kind: kind.to_owned(), headline: owned("headline"), name: owned("name") };
                match &self.subject {
                    // The first subject counts. Of several types the others are parts of it, such as the video of an article.
                    Some(known) if known.kind != subject.kind => return,
                    Some(known) if known.title() != subject.title() => {
                        self.is_list = true;
                        return;
                    }
                    Some(_) => {}
                    None => self.subject = Some(subject),
                }
                self.description = self.description.take().or(text("description").map(str::to_owned));
                for key in ["image", "thumbnailUrl", "thumbnail"] {
                    images(node.get(key), all, &mut self.images);
                }
                let publisher = node.pointer("/publisher/name").and_then(Value::as_str);
                self.publisher = self.publisher.take().or(publisher.map(str::to_owned));
            }
            Role::Page => {
                self.description = self.description.take().or(text("description").map(str::to_owned));
                for key in ["primaryImageOfPage", "image", "thumbnailUrl"] {
                    images(node.get(key), all, &mut self.page_images);
                }
            }
            Role::Site => {
                self.site_name = self.site_name.take().or(text("name").map(str::to_owned));
            }
            Role::Other => {}
        }
    }
}

/// What an object is to the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Role {
    /// Breadcrumbs, organizations, people.
    Other,
    Site,
    /// The page itself.
    Page,
    /// What the page is about.
    Subject,
}

impl Role {
    /// The role of an object of this type.
    fn of(kind: &str) -> Self {
        // A type may be a full or compact IRI, as in `https://schema.org/Article`.
        let kind = kind.rsplit(['/', ':', '#']).next().unwrap_or(kind);
        let is_subject =
            SUBJECTS.contains(&kind) || SUBJECT_ENDINGS.iter().any(|ending| kind.ends_with(ending));
        match kind {
            _ if is_subject => Self::Subject,
            "WebSite" => Self::Site,
            _ if kind.ends_with("Page") => Self::Page,
            _ => Self::Other,
        }
    }
}

/// The values of `@type`.
fn types(node: &Value) -> impl Iterator<Item = &str> {
    let kind = node.get("@type");
    let many = kind.and_then(Value::as_array).into_iter().flatten();
    kind.into_iter().chain(many).filter_map(Value::as_str)
}

/// Collects the objects: a single one, a list, those of `@graph`, and `mainEntity` of a page.
fn collect<'a>(value: &'a Value, depth: usize, nodes: &mut Vec<&'a Value>) {
    // Only where `serde_json` has already bounded the nesting, so this recursion is no danger to the stack.
    if depth > MAX_DEPTH || nodes.len() >= MAX_NODES {
        return;
    }
    let below = depth.saturating_add(1);
    if let Some(items) = value.as_array() {
        for item in items {
            collect(item, below, nodes);
        }
    } else if value.is_object() {
        nodes.push(value);
        for key in ["@graph", "mainEntity"] {
            if let Some(inner) = value.get(key) {
                collect(inner, below, nodes);
            }
        }
    }
}

/// Adds the images of a property to `found`: a URL, an object, a reference to one of `nodes`, or a list of these.
fn images(value: Option<&Value>, nodes: &[&Value], found: &mut Vec<ImageRef>) {
    let Some(value) = value else { return };
    let items = value.as_array().map_or_else(|| std::slice::from_ref(value), Vec::as_slice);
    for item in items.iter().take(MAX_IMAGES) {
        let text = |object: &Value, key: &str| object.get(key).and_then(Value::as_str).map(str::to_owned);
        let url = |object: &Value| text(object, "url").or_else(|| text(object, "contentUrl"));
        let id = item.get("@id");
        // An object that is only `{"@id": …}` refers to one elsewhere in the script.
        let named = nodes.iter().find(|node| id.is_some() && node.get("@id") == id && url(node).is_some());
        let object = if url(item).is_none() { named.copied().unwrap_or(item) } else { item };
        let Some(src) = item.as_str().map(str::to_owned).or_else(|| url(object)) else { continue };
        let image = ImageRef {
            src,
            width: side(object.get("width")),
            height: side(object.get("height")),
            alt: text(object, "caption"),
        };
        if found.len() < MAX_IMAGES && !found.contains(&image) {
            found.push(image);
        }
    }
}

/// Pixels: a number, a string, or a `QuantitativeValue`.
fn side(value: Option<&Value>) -> Option<u32> {
    let value = value?;
    let value = value.get("value").unwrap_or(value);
    value.as_str().and_then(pixels).or_else(|| pixels(&value.as_u64()?.to_string()))
}

/// Types of objects that a page may be about.
const SUBJECTS: [&str; 28] = [
    "Apartment",
    "AudioObject",
    "BlogPosting",
    "Book",
    "Course",
    "Dataset",
    "DiscussionForumPosting",
    "Game",
    "Hotel",
    "HowTo",
    "JobPosting",
    "LiveBlogPosting",
    "LocalBusiness",
    "MobileApplication",
    "Movie",
    "MusicAlbum",
    "MusicPlaylist",
    "MusicRecording",
    "Place",
    "PodcastEpisode",
    "PodcastSeries",
    "Product",
    "ProductGroup",
    "Question",
    "Recipe",
    "Restaurant",
    "SocialMediaPosting",
    "VideoObject",
];

/// Endings of further such types: `NewsArticle`, `MusicEvent`, `TVSeries`, `WebApplication`.
const SUBJECT_ENDINGS: [&str; 7] =
    ["Article", "Event", "Series", "Episode", "Application", "SourceCode", "Report"];

/// Deepest nesting in which objects are collected.
const MAX_DEPTH: usize = 4;

/// Most objects read of one script.
const MAX_NODES: usize = 200;

/// Most images kept.
const MAX_IMAGES: usize = 8;

/// Longest script read, bytes. Parsed it takes up to 20 times that.
pub(super) const MAX_SCRIPT: usize = 128 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn read(script: &str) -> JsonLd {
        let mut json_ld = JsonLd::default();
        json_ld.read(script.as_bytes());
        json_ld
    }

    #[test]
    fn images_are_read_from_strings_lists_objects_and_references() {
        for image in [
            r#""https://x.example/a.jpg""#,
            r#"["https://x.example/a.jpg"]"#,
            r#"{"@type":"ImageObject","url":"https://x.example/a.jpg"}"#,
            r#"[{"contentUrl":"https://x.example/a.jpg"}]"#,
            r##"{"@id":"#i"}"##,
        ] {
            let json_ld = read(&format!(
                r##"{{"@graph":[{{"@type":"NewsArticle","headline":"H","image":{image}}},
                {{"@type":"ImageObject","@id":"#i","url":"https://x.example/a.jpg"}}]}}"##
            ));
            assert_eq!(json_ld.title(None), Some("H"));
            assert_eq!(json_ld.images().len(), 1, "{image}");
            assert_eq!(json_ld.images()[0].src, "https://x.example/a.jpg");
        }
    }

    #[test]
    fn a_list_of_products_has_no_subject() {
        let json_ld = read(
            r#"[{"@type":"Product","name":"A","image":"/a"},{"@type":"Product","name":"B","image":"/b"}]"#,
        );
        assert_eq!((json_ld.title(None), json_ld.images().len()), (None, 0));
    }

    #[test]
    fn the_headline_or_name_that_is_in_the_document_title_is_the_title() {
        let wiki = read(
            r#"{"@type":"Article","name":"Hermitian matrix","headline":"matrix equal to its transpose"}"#,
        );
        for (document_title, expected) in [
            (Some("Hermitian matrix - Wiki"), "Hermitian matrix"),
            (Some("HERMITIAN MATRIX"), "Hermitian matrix"),
            (Some("Wiki: matrix equal to its transpose"), "matrix equal to its transpose"),
            (Some("Something else"), "matrix equal to its transpose"),
            (None, "matrix equal to its transpose"),
        ] {
            assert_eq!(wiki.title(document_title), Some(expected), "{document_title:?}");
        }
        let named = read(r#"{"@type":"Recipe","name":"Soup"}"#);
        assert_eq!(named.title(Some("Best dishes")), Some("Soup"));
    }

    #[test]
    fn usual_faults_are_tolerated_and_other_broken_json_is_ignored() {
        let json_ld =
            read("<!-- \n//<![CDATA[\n{\"@type\":\"Recipe\",\"name\":\"Soup\nof the day\"}; //]]> -->");
        assert_eq!(json_ld.title(None), Some("Soup of the day"));
        for broken in ["{", "}{", "", "null", "{\"@type\": \"Recipe\", name: 1}", &"[".repeat(100_000)] {
            assert_eq!(read(broken).title(None), None);
        }
    }
}
