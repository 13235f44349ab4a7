//! What on a page is not its content: menus, banners, footers, hidden elements, requests for consent.
//!
//! Owns the lists that tell it: names of elements, roles, words in classes and IDs, phrases. Refuses to know what becomes of it,
//! which is [`super::visible`]'s.

use super::elements::is_unrendered;
use super::html::Tag;
use super::open_element::OpenElement;
use super::text;

/// How an element was recognised as boilerplate. The order is that of certainty: the less certain, the more start tags end the
/// element where its end tag was forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Boilerplate {
    /// A caption, or an element around an image and its caption. As [`Likely`](Self::Likely), but its images count.
    Caption,
    /// A class or ID that often means boilerplate. Its paragraphs count where the page has no other text.
    Likely,
    /// A class or ID that names boilerplate.
    ByName,
    /// The header of the page, which often holds its title. Headings count; paragraphs as in [`Likely`](Self::Likely).
    Header,
    /// An element such as `nav`, or a role.
    ByElement,
    /// Not rendered.
    Unrendered,
}

impl Boilerplate {
    /// How an element outside the main part of the page is boilerplate, if it is.
    pub(super) fn outside_main(tag: &Tag) -> Option<Self> {
        if tag.name() == "header" { Some(Self::Header) } else { Self::inside_main(tag) }
    }

    /// The same inside the main part, where a `header` is that of an article and counts as text.
    pub(super) fn inside_main(tag: &Tag) -> Option<Self> {
        let name = tag.name();
        let by_element = match name {
            _ if is_unrendered(name) => Some(Self::Unrendered),
            "nav" | "footer" | "aside" | "menu" | "dialog" | "button" | "label" | "legend" | "title" => {
                Some(Self::ByElement)
            }
            "figcaption" | "caption" => Some(Self::Caption),
            "sup" if is_citation(tag) => Some(Self::ByElement),
            _ => None,
        };
        // Themes put classes such as `modal-open` on these, so their classes do not count.
        if by_element.is_some() || matches!(name, "html" | "body" | "main" | "article" | "h1" | "head") {
            return by_element;
        }
        if is_hidden(tag) {
            return Some(Self::Unrendered);
        }
        let role = tag.get("role").unwrap_or_default();
        if BOILERPLATE_ROLES.contains(&role) {
            return Some(Self::ByElement);
        }
        if role == "banner" {
            return Some(Self::Header);
        }
        let has = |words: &[&str]| {
            [tag.get("class"), tag.get("id")].into_iter().flatten().any(|names| has_word(names, words))
        };
        if has(&BOILERPLATE_NAMES) {
            return Some(Self::ByName);
        }
        if has(&LIKELY_NAMES) {
            return Some(Self::Likely);
        }
        has(&["caption"]).then_some(Self::Caption)
    }
}

/// An open element that is boilerplate.
#[derive(Debug)]
pub(super) struct BoilerplateElement {
    pub(super) element: OpenElement,
    pub(super) kind: Boilerplate,
}

impl BoilerplateElement {
    /// An element that has just begun.
    pub(super) fn new(name: &str, kind: Boilerplate) -> Self {
        Self { element: OpenElement::new(name), kind }
    }

    /// Whether a start tag shows that the element has ended: pages forget end tags.
    pub(super) fn is_ended_by(&self, name: &str) -> bool {
        match name {
            "body" => true,
            "main" => self.kind < Boilerplate::Unrendered,
            "article" => self.kind < Boilerplate::ByElement,
            "h1" => self.kind <= Boilerplate::ByName,
            _ => false,
        }
    }
}

/// Whether an element is the main part of the page.
pub(super) fn is_main(tag: &Tag) -> bool {
    matches!(tag.name(), "main" | "article")
        || tag.get("role") == Some("main")
        || tag
            .get("itemprop")
            .is_some_and(|name| name.split_ascii_whitespace().any(|word| word == "articleBody"))
}

/// Whether the attributes of an element hide it.
pub(super) fn is_hidden(tag: &Tag) -> bool {
    let style = tag.get("style").unwrap_or_default();
    let style: String =
        style.chars().filter(|c| !c.is_whitespace()).map(|c| c.to_ascii_lowercase()).collect();
    tag.get("hidden").is_some()
        || tag.get("aria-hidden") == Some("true")
        || style.contains("display:none")
        || style.contains("visibility:hidden")
}

/// Whether a text is one that any page may have: it asks for consent to cookies, for scripts or for patience, or claims rights.
pub(super) fn is_boilerplate_text(text: &str) -> bool {
    if text.len() >= MAX_BOILERPLATE {
        return false;
    }
    let text = text.to_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| text.contains(word));
    let is_consent = text.contains("cookie") && has(&CONSENT);
    let is_about_scripts = text.contains("javascript") && has(&SCRIPTS);
    let is_copyright =
        has(&COPYRIGHT) || ["©", "copyright ", "(c) "].iter().any(|start| text.starts_with(start));
    // Longer texts about loading are content.
    let is_waiting = text.starts_with("loading") && text.len() < "loading, please wait...".len();
    is_consent || is_waiting || is_about_scripts || (is_copyright && text.len() < MAX_PHRASE)
}

/// Whether a text that [`is_boilerplate_text`] may be the content of a page about cookies: it asks readers for nothing.
pub(super) fn is_about_cookies(text: &str) -> bool {
    let text = text.to_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| text.contains(word));
    text.contains("cookie") && !text.contains("javascript") && !has(&COPYRIGHT) && !has(&ASKING)
}

/// Whether the text of a link only tells readers to follow it.
pub(super) fn is_navigation_hint(text: &str) -> bool {
    let text = text.to_lowercase();
    text.len() < MAX_PHRASE && NAVIGATION_HINTS.iter().any(|word| text.contains(word))
}

/// Whether a text is not a sentence but a date line, as in `22 Dec, 2016`, or a call to readers in capitals.
pub(super) fn is_byline(text: &str) -> bool {
    let count = |is: fn(char) -> bool| text.chars().filter(|c| is(*c)).count();
    let (digits, letters) = (count(|c| c.is_ascii_digit()), count(char::is_alphabetic));
    // A year has four digits; dates and times are mostly digits.
    let is_date = digits >= 4 && digits.saturating_mul(5) > letters;
    let is_in_capitals = count(char::is_uppercase) > 0 && count(char::is_lowercase) == 0;
    !text::is_sentence(text) && (is_date || is_in_capitals)
}

/// Whether an element is a footnote mark, as in MediaWiki.
fn is_citation(tag: &Tag) -> bool {
    tag.get("class").is_some_and(|names| names.split_ascii_whitespace().any(|name| name == "reference"))
}

/// Whether a class or ID contains one of `known` as a word, as in `site-menu` or `cookieBanner`. `has-sidebar` does not count: it
/// names the neighbour of a sidebar.
fn has_word(names: &str, known: &[&str]) -> bool {
    names.split_ascii_whitespace().any(|name| {
        let has = |known: &[&str]| {
            words_of(name).any(|word| known.iter().any(|known| known.eq_ignore_ascii_case(word)))
        };
        !has(&NEIGHBOUR_WORDS) && has(known)
    })
}

/// The words of a name, split at `-`, `_` and where a capital follows a lower-case letter.
fn words_of(name: &str) -> impl Iterator<Item = &str> {
    let mut rest = name;
    std::iter::from_fn(move || {
        rest = rest.trim_start_matches(['-', '_']);
        let mut was_lower = false;
        let end = rest.char_indices().find(|(_, c)| {
            let is_end = matches!(c, '-' | '_') || (was_lower && c.is_ascii_uppercase());
            was_lower = c.is_ascii_lowercase();
            is_end
        });
        let (word, after) = rest.split_at_checked(end.map_or(rest.len(), |(at, _)| at))?;
        rest = after;
        (!word.is_empty()).then_some(word)
    })
}

/// Roles of boilerplate ([WAI-ARIA](https://www.w3.org/TR/wai-aria-1.2/#role_definitions)).
const BOILERPLATE_ROLES: [&str; 10] = [
    "navigation",
    "contentinfo",
    "complementary",
    "search",
    "dialog",
    "alertdialog",
    "alert",
    "menu",
    "menubar",
    "toolbar",
];

/// Words in names of elements that only stand beside boilerplate, or contain it with the content.
const NEIGHBOUR_WORDS: [&str; 9] =
    ["has", "no", "with", "is", "wrapper", "layout", "without", "overflow", "label"];

/// Words in classes and IDs of boilerplate.
const BOILERPLATE_NAMES: [&str; 24] = [
    "advert",
    "advertisement",
    "breadcrumb",
    "breadcrumbs",
    "consent",
    "cookie",
    "cookiebanner",
    "cookieconsent",
    "cookies",
    "didomi",
    "footer",
    "gdpr",
    "menu",
    "modal",
    "nav",
    "navbar",
    "navbox",
    "navigation",
    "onetrust",
    "pager",
    "pagination",
    "popup",
    "skip",
    "usercentrics",
];

/// Words in classes and IDs of what often is boilerplate.
const LIKELY_NAMES: [&str; 15] = [
    "byline",
    "comments",
    "coordinates",
    "hatnote",
    "hidden",
    "newsletter",
    "noprint",
    "related",
    "share",
    "sharing",
    "sidebar",
    "signup",
    "social",
    "subscribe",
    "toc",
];

/// Phrases that ask for consent to cookies, in several languages.
const CONSENT: [&str; 22] = [
    "accept",
    "consent",
    "agree",
    "use cookies",
    "uses cookies",
    "using cookies",
    "cookie policy",
    "cookie settings",
    "cookies verwende",
    "verwenden cookies",
    "verwendet cookies",
    "nutzt cookies",
    "nutzen cookies",
    "akzeptier",
    "zustimm",
    "einverstanden",
    "utilis",
    "utiliz",
    "aceptar",
    "gebruik",
    "uso de cookies",
    "файлы cookie",
];

/// Phrases that ask readers to agree, or tell what is done with their data.
const ASKING: [&str; 16] = [
    "accept",
    "consent",
    "agree",
    "policy",
    "settings",
    "browser",
    "website",
    "this site",
    "our site",
    "experience",
    "analytics",
    "privacy",
    "zustimm",
    "akzeptier",
    "einverstanden",
    "aceptar",
];

/// Phrases that send readers elsewhere.
const NAVIGATION_HINTS: [&str; 7] =
    ["redirect", "click here", "weitergeleitet", "klicken sie hier", "cliquez ici", "haga clic", "skip to"];

/// Phrases that ask for scripts.
const SCRIPTS: [&str; 6] = ["enable", "disabled", "turn on", "aktivier", "activ", "requires"];

/// Phrases that claim rights.
const COPYRIGHT: [&str; 4] = [
    "all rights reserved",
    "alle rechte vorbehalten",
    "tous droits réservés",
    "todos los derechos reservados",
];

/// A text of at least this length is not boilerplate, bytes.
const MAX_BOILERPLATE: usize = 500;

/// A text of at least this length is more than a claim of rights or a navigation hint, bytes.
const MAX_PHRASE: usize = 200;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_boilerplate_are_recognised_by_their_words() {
        for name in [
            "site-menu",
            "cookie_banner",
            "cookieBanner",
            "CookieConsent",
            "main SideBar-x x-nav",
            "pageFooter",
        ] {
            assert!(has_word(name, &BOILERPLATE_NAMES), "{name}");
        }
        assert!(
            has_word("l-sidebar-fixed", &LIKELY_NAMES) && !has_word("l-sidebar-fixed", &BOILERPLATE_NAMES)
        );
        for name in
            ["has-sidebar", "navy", "menus", "content", "", "-", "--", "no-menu", "layoutSidebar", "Ä_ö"]
        {
            assert!(!has_word(name, &BOILERPLATE_NAMES) && !has_word(name, &LIKELY_NAMES), "{name}");
        }
    }

    #[test]
    fn date_lines_and_calls_in_capitals_are_recognised() {
        for text in [
            "Le Monde | 04.05.2015 à 13h36 • Mis à jour le 05.05.2015 | Par A. B",
            "22 Dec, 2016",
            "SIGN UP FOR OUR NEWSLETTER",
        ] {
            assert!(is_byline(text), "{text}");
        }
        for text in [
            "In 2015 it was 30 years old.",
            "It was built between 1914 and 1918 by those who lived there",
            "日本語の文章",
            "NASA SAID YES.",
        ] {
            assert!(!is_byline(text), "{text}");
        }
    }

    #[test]
    fn boilerplate_texts_are_told_from_content() {
        for text in [
            "We use cookies to make this better.",
            "Diese Seite verwendet Cookies.",
            "Nous utilisons des cookies pour tout.",
            "Please enable JavaScript to view this page.",
            "© 2024 Example",
            "Loading...",
            "Copyright 2020 Example Ltd.",
            "Example. All rights reserved.",
        ] {
            assert!(is_boilerplate_text(text), "{text}");
        }
        for text in [
            "These chocolate chip cookies are the best.",
            "JavaScript is a language.",
            "The right to copyright law is old.",
        ] {
            assert!(!is_boilerplate_text(text), "{text}");
        }
    }
}
