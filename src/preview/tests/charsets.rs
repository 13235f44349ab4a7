//! Character sets: declared, contradicted and guessed.

use super::*;

#[test]
fn a_declaration_counts_wherever_it_is() {
    let url = "https://x.example/";
    let script = format!("<script>{}</script>", "x = 1;\n".repeat(33 * 1024 / 7));
    let russian = encoding_rs::WINDOWS_1251.encode("<title>Привет, мир</title>").0;
    for (before, after) in [("<meta charset=windows-1251>", ""), ("", "<meta charset=windows-1251>")] {
        let page = [script.as_bytes(), before.as_bytes(), &russian, after.as_bytes()].concat();
        assert_eq!(read(&page, Some("text/html"), url).title.as_deref(), Some("Привет, мир"));
    }
    let late = format!("{script}<title>Grüße, мир</title>");
    for content_type in ["text/html; charset=iso-8859-1", "text/html", "text/html; charset=windows-1251"] {
        assert_eq!(
            read(late.as_bytes(), Some(content_type), url).title.as_deref(),
            Some("Grüße, мир"),
            "{content_type}"
        );
    }
    let mut broken = "<title>Schöne Grüße aus Köln, мир</title><p>\u{1}".to_owned().into_bytes();
    *broken.last_mut().unwrap() = 0xe4;
    for content_type in ["text/html", "text/html; charset=iso-8859-1", "text/html; charset=utf-8"] {
        assert_eq!(
            read(&broken, Some(content_type), url).title.as_deref(),
            Some("Schöne Grüße aus Köln, мир"),
            "{content_type}"
        );
    }
    let page = read(b"<title>Noise \xff\xff here</title>", Some("text/html"), url);
    assert_eq!(page.title.as_deref(), Some("Noise \u{fffd}\u{fffd} here"));
    let page = read(b"<title>Noise \xff\xfe\xff\xfe\xff \x93q\x94</title>", Some("text/html"), url);
    assert_eq!(page.title.as_deref(), Some("Noise ÿþÿþÿ “q”"));
    let page = read(b"<title>caf\xe9</title>", Some("text/html"), url);
    assert_eq!(page.title.as_deref(), Some("café"));
}

#[test]
fn broken_bytes_do_not_make_utf_8_something_else() {
    let url = "https://x.example/";
    let party = b"Party \xed\xa0\xbc\xed\xbe\x89 f\xc3\xbcr alle";
    let titles: [(&[u8], &str); 9] = [
        (party, "für alle"),
        (b"Party \xed\xa0\xbc\xed\xbe\x89", "Party"),
        (b"a\xff\xfe f\xc3\xbcr", "für"),
        (b"a\xc0\x80 f\xc3\xbcr alle", "für alle"),
        (b"f\xc3\xbc\xffr", "fü"),
        (b"\x93a\x94 \x93b\x94 f\xc3\xbcr", "für"),
        (b"\xed\xa0\xbc f\xc3\xbcr", "für"),
        ("\u{65e5}\u{672c}\u{8a9e}".as_bytes(), "\u{65e5}\u{672c}\u{8a9e}"),
        (b"\xe6\x97\xa5\xff\xe6\x9c\xac\xfe\xff\xe8\xaa\x9e", "\u{672c}"),
    ];
    for (title, part) in titles {
        let page = [b"<title>", title, b"</title>"].concat();
        let declared = [b"<meta charset=utf-8>".as_slice(), &page].concat();
        for (page, content_type) in [(&page, "text/html; charset=utf-8"), (&declared, "text/html")] {
            let found = read(page, Some(content_type), url).title.unwrap_or_default();
            assert!(found.contains(part), "{found:?} of {part:?} as {content_type}");
        }
    }
    let more = " \u{2014} am 5. M\u{e4}rz in der Stra\u{df}e".as_bytes();
    let page = [b"<title>".as_slice(), party, more, b"</title>"].concat();
    let found = read(&page, Some("text/html"), url).title.unwrap();
    assert!(found.contains("f\u{fc}r alle \u{2014} am 5. M\u{e4}rz in der Stra\u{df}e"), "{found}");
}

#[test]
fn a_wrong_declaration_of_utf_8_is_ignored() {
    for (encoding, text) in [
        (encoding_rs::WINDOWS_1251, "Вибори в Румунії: під час голосування у столиці зафіксували порушення"),
        (encoding_rs::WINDOWS_1251, "Привет, мир"),
        (encoding_rs::WINDOWS_1252, "Un été à la plage — la météo de la journée"),
        (encoding_rs::GBK, "中国联通公司今天发布了新的产品和服务计划"),
        (encoding_rs::SHIFT_JIS, "日本語のページはこのように書かれています"),
        (encoding_rs::EUC_KR, "한국어로 쓰인 페이지는 이렇게 보입니다"),
    ] {
        let page = [b"<title>".as_slice(), &encoding.encode(text).0, b"</title>"].concat();
        for content_type in ["text/html; charset=utf-8", "text/html"] {
            let found = read(&page, Some(content_type), "https://x.example/").title;
            assert_eq!(found.as_deref(), Some(text), "{} as {content_type}", encoding.name());
        }
    }
}
