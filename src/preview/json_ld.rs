//! [JSON-LD](https://json-ld.org/): what search engines are told, in the words of [schema.org](https://schema.org/).
//!
//! Owns the reading of `script type="application/ld+json"`. It adds what the page's own words lack; nothing is fetched
//! and no context is expanded.

use serde_json::Value;

use super::declared::{RawImage, pixels};

/// What the scripts of a page say.
#[derive(Debug, Default)]
pub(super) struct JsonLd {
    /// What the page is about.
    subject: Option<Subject>,
    /// Whether the page is about several things, so about none.
    is_list: bool,
    /// A description.
    description: Option<String>,
    /// The name of the site.
    site_name: Option<String>,
    /// The name of the publisher, which often is the site's.
    publisher: Option<String>,
    /// Images of the subject.
    images: Vec<RawImage>,
    /// Images of the page.
    page_images: Vec<RawImage>,
}

/// What a page is about.
#[derive(Debug)]
struct Subject {
    /// Its type.
    kind: String,
    /// Its title.
    headline: Option<String>,
    /// Its name, which may be its title too.
    name: Option<String>,
}

impl Subject {
    /// What it is called.
    fn title(&self) -> Option<&str> {
        self.headline.as_deref().or(self.name.as_deref())
    }
}

impl JsonLd {
    /// Reads one script. What is broken beyond the usual is passed over.
    pub(super) fn read(&mut self, script: &[u8]) {
        // Raw line breaks in strings are the usual fault; between values they are white space as well.
        let script: Vec<u8> = script.iter().map(|byte| if *byte < b' ' { b' ' } else { *byte }).collect();
        let between = |opens: &[u8], closes: &[u8]| {
            let start = script.iter().position(|byte| opens.contains(byte))?;
            let end = script.iter().rposition(|byte| closes.contains(byte))?;
            serde_json::from_slice::<Value>(script.get(start..=end)?).ok()
        };
        // The second attempt leaves out the brackets of CDATA.
        let Some(document) = between(b"{[", b"}]").or_else(|| between(b"{", b"}")) else { return };
        let mut nodes = Vec::new();
        collect(&document, 0, &mut nodes);
        for node in &nodes {
            self.node(node, &nodes);
        }
    }

    /// The title of what the page is about. Of a headline and a name, which wikis use for a description and the title, the
    /// one that is in `document`, the page's own title, counts.
    pub(super) fn title(&self, document: Option<&str>) -> Option<&str> {
        let subject = self.subject.as_ref().filter(|_| !self.is_list)?;
        let document = document.unwrap_or_default().to_lowercase();
        let is_said = |text: &&str| document.contains(text.trim().to_lowercase().as_str());
        let headline = subject.headline.as_deref().filter(is_said);
        headline.or_else(|| subject.name.as_deref().filter(is_said)).or_else(|| subject.title())
    }

    /// Its description.
    pub(super) fn description(&self) -> Option<&str> {
        self.description.as_deref().filter(|_| !self.is_list)
    }

    /// The site.
    pub(super) fn site_name(&self) -> Option<&str> {
        self.site_name.as_deref().or(self.publisher.as_deref())
    }

    /// Images, best first.
    pub(super) fn images(&self) -> &[RawImage] {
        if self.is_list || self.images.is_empty() { &self.page_images } else { &self.images }
    }

    /// One thing that is described.
    fn node(&mut self, node: &Value, all: &[&Value]) {
        let Some(kind) = types(node).max_by_key(|kind| Role::of(kind)) else { return };
        let text = |key: &str| node.get(key).and_then(Value::as_str).filter(|text| !text.trim().is_empty());
        match Role::of(kind) {
            Role::Subject => {
                let owned = |key| text(key).map(str::to_owned);
                let subject =
                    Subject { kind: kind.to_owned(), headline: owned("headline"), name: owned("name") };
                match &self.subject {
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

/// What a described thing is to the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Role {
    /// Furniture: breadcrumbs, organizations, people.
    Other,
    /// The site.
    Site,
    /// The page itself.
    Page,
    /// What the page is about.
    Subject,
}

impl Role {
    /// The role of a type.
    fn of(kind: &str) -> Self {
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

/// The types of a node.
fn types(node: &Value) -> impl Iterator<Item = &str> {
    let kind = node.get("@type");
    let many = kind.and_then(Value::as_array).into_iter().flatten();
    kind.into_iter().chain(many).filter_map(Value::as_str)
}

/// Finds the described things: alone, in a list, in a graph, or as what a page is about.
fn collect<'a>(value: &'a Value, depth: usize, nodes: &mut Vec<&'a Value>) {
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

/// The images of a property: a URL, an object, a reference to one of `nodes`, or a list of these.
fn images(value: Option<&Value>, nodes: &[&Value], found: &mut Vec<RawImage>) {
    let Some(value) = value else { return };
    let items = value.as_array().map_or_else(|| std::slice::from_ref(value), Vec::as_slice);
    for item in items.iter().take(MAX_IMAGES) {
        let text = |object: &Value, key: &str| object.get(key).and_then(Value::as_str).map(str::to_owned);
        let url = |object: &Value| text(object, "url").or_else(|| text(object, "contentUrl"));
        let id = item.get("@id");
        let named = nodes.iter().find(|node| id.is_some() && node.get("@id") == id && url(node).is_some());
        let object = if url(item).is_none() { named.copied().unwrap_or(item) } else { item };
        let Some(src) = item.as_str().map(str::to_owned).or_else(|| url(object)) else { continue };
        let image = RawImage {
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

/// Pixels: a number, a text, or a quantity.
fn side(value: Option<&Value>) -> Option<u32> {
    let value = value?;
    let value = value.get("value").unwrap_or(value);
    value.as_str().and_then(pixels).or_else(|| pixels(&value.as_u64()?.to_string()))
}

/// Types that a page is about.
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

/// Endings of such types: `NewsArticle`, `MusicEvent`, `TVSeries`, `WebApplication`.
const SUBJECT_ENDINGS: [&str; 7] =
    ["Article", "Event", "Series", "Episode", "Application", "SourceCode", "Report"];

/// Deepest nesting looked into.
const MAX_DEPTH: usize = 4;

/// Most things looked at in one script.
const MAX_NODES: usize = 200;

/// Most images kept.
const MAX_IMAGES: usize = 8;

/// Longest script read, bytes; its values take up to 20 times that.
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
    fn images_come_as_text_list_object_or_reference() {
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
    fn a_list_of_products_is_about_none_of_them() {
        let json_ld = read(
            r#"[{"@type":"Product","name":"A","image":"/a"},{"@type":"Product","name":"B","image":"/b"}]"#,
        );
        assert_eq!((json_ld.title(None), json_ld.images().len()), (None, 0));
    }

    #[test]
    fn of_headline_and_name_the_one_in_the_pages_title_is_its_title() {
        let wiki = read(
            r#"{"@type":"Article","name":"Hermitian matrix","headline":"matrix equal to its transpose"}"#,
        );
        for (document, expected) in [
            (Some("Hermitian matrix - Wiki"), "Hermitian matrix"),
            (Some("HERMITIAN MATRIX"), "Hermitian matrix"),
            (Some("Wiki: matrix equal to its transpose"), "matrix equal to its transpose"),
            (Some("Something else"), "matrix equal to its transpose"),
            (None, "matrix equal to its transpose"),
        ] {
            assert_eq!(wiki.title(document), Some(expected), "{document:?}");
        }
        let named = read(r#"{"@type":"Recipe","name":"Soup"}"#);
        assert_eq!(named.title(Some("Best dishes")), Some("Soup"));
    }

    #[test]
    fn usual_faults_are_read_over_and_others_yield_nothing() {
        let json_ld =
            read("<!-- \n//<![CDATA[\n{\"@type\":\"Recipe\",\"name\":\"Soup\nof the day\"}; //]]> -->");
        assert_eq!(json_ld.title(None), Some("Soup of the day"));
        for broken in ["{", "}{", "", "null", "{\"@type\": \"Recipe\", name: 1}", &"[".repeat(100_000)] {
            assert_eq!(read(broken).title(None), None);
        }
    }
}
