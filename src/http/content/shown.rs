//! How a browser is told to treat content: as a file to keep, unless it is of a kind that can do no harm.

use axum::http::{HeaderMap, HeaderValue};

use crate::{
    content::cid::Cid,
    node::error::{ErrorCode, NodeError},
};

/// What the storer said the content is; nothing in particular where that is no media type.
pub(super) fn media_type(said: Option<&str>) -> HeaderValue {
    let said = said.filter(|said| said.len() <= 200 && said.contains('/'));
    let said = said.and_then(|said| HeaderValue::from_str(said).ok());
    said.unwrap_or(HeaderValue::from_static("application/octet-stream"))
}

/// The type under which content may be shown in the browser; none where it may not.
///
/// What can run scripts or load anything is never shown: HTML, SVG and every kind of XML. Text is shown as plain text,
/// whatever kind of text it is.
pub(super) fn inline_type(said: Option<&str>) -> Option<HeaderValue> {
    let essence = said?.split(';').next()?.trim().to_ascii_lowercase();
    let (kind, sub) = essence.split_once('/')?;
    let markup = sub.contains("xml") || sub.contains("svg") || sub.contains("html");
    let source = ["application/json", "application/toml", "application/yaml", "application/x-sh"];
    match kind {
        _ if markup => None,
        "image" | "audio" | "video" => HeaderValue::from_str(&essence).ok(),
        "text" => Some(HeaderValue::from_static("text/plain; charset=utf-8")),
        _ if essence == "application/pdf" => Some(HeaderValue::from_static("application/pdf")),
        _ if source.contains(&essence.as_str()) => {
            Some(HeaderValue::from_static("text/plain; charset=utf-8"))
        }
        _ => None,
    }
}

/// What shown or kept content may do in a browser: nothing. That holds for PDF, too: Chromium and Firefox show one in a
/// sandbox by viewers of their own.
pub(super) const POLICY: &str =
    "sandbox; default-src 'none'; img-src 'self'; media-src 'self'; style-src 'unsafe-inline'";

/// Refuses a browser that would run content as a part of a page, whatever it is said to be.
pub(in super::super) fn refuse_as_part(headers: &HeaderMap) -> Result<(), NodeError> {
    let dest = headers.get("sec-fetch-dest").and_then(|dest| dest.to_str().ok()).unwrap_or_default();
    if dest == "script"
        || dest == "style"
        || dest == "xslt"
        || dest.ends_with("worker")
        || dest.ends_with("worklet")
    {
        return Err(NodeError::new(
            ErrorCode::Denied,
            "content is not served as a page's script, style or worker",
        )
        .hint("a page shows it as an image, a video or text, or offers it to be kept"));
    }
    Ok(())
}

/// `attachment` or `inline`, with the name twice: in plain ASCII for old readers, and in full by RFC 8187. Whoever keeps
/// a file by it keeps it where it meant to: it has no slash in it, and is the CID where it would name a folder.
pub(in super::super) fn disposition(how: &str, name: &str, cid: &Cid) -> HeaderValue {
    let name = match name {
        "" | "." | ".." => cid.to_string(),
        name => name.replace(['/', '\\'], "_"),
    };
    let plain: String = name
        .chars()
        .map(|c| if c.is_ascii_graphic() && !matches!(c, '"' | '\\' | '%') || c == ' ' { c } else { '_' })
        .collect();
    let full: String = name.bytes().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push('%');
            out.push_str(&data_encoding::HEXUPPER.encode(&[byte]));
        }
        out
    });
    header_value(&format!("{how}; filename=\"{plain}\"; filename*=UTF-8''{full}"))
}

pub(super) fn header_value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::content::cid::Codec;

    #[test]
    fn a_media_type_that_is_no_header_hides_no_file() {
        assert_eq!(media_type(Some("text/plain")), "text/plain");
        for odd in [None, Some("text/\nplain"), Some("\u{7f}"), Some("plain")] {
            assert_eq!(media_type(odd), "application/octet-stream");
        }
    }

    #[test]
    fn what_can_run_is_never_shown() {
        for harmful in [
            "text/html",
            "TEXT/HTML; charset=x",
            "image/svg+xml",
            "image/SVG",
            "application/xhtml+xml",
            "text/xml",
            "application/xml",
            "text/xsl+xml",
            "application/javascript",
            "application/octet-stream",
            "",
            "html",
        ] {
            assert_eq!(inline_type(Some(harmful)), None, "{harmful}");
        }
        for (said, shown) in [
            ("image/png", "image/png"),
            ("video/mp4; codecs=x", "video/mp4"),
            ("text/javascript", "text/plain; charset=utf-8"),
            ("application/json", "text/plain; charset=utf-8"),
            ("application/pdf", "application/pdf"),
        ] {
            assert_eq!(inline_type(Some(said)).expect("shown"), shown, "{said}");
        }
    }

    #[test]
    fn a_name_cannot_break_out_of_its_header() {
        let cid = Cid::of(Codec::Raw, b"x");
        let value = disposition("attachment", "a\"b\\c\r\nX: y/ü.txt", &cid);
        assert_eq!(
            value.to_str().ok(),
            Some(
                "attachment; filename=\"a_b_c__X: y__.txt\"; filename*=UTF-8''a%22b_c%0D%0AX%3A%20y_%C3%BC.txt"
            )
        );
        let named = |name: &str| disposition("inline", name, &cid).to_str().expect("plain").to_owned();
        assert_eq!(named("../../etc/x"), "inline; filename=\".._.._etc_x\"; filename*=UTF-8''.._.._etc_x");
        for folder in ["", ".", ".."] {
            assert_eq!(named(folder), format!("inline; filename=\"{cid}\"; filename*=UTF-8''{cid}"));
        }
    }

    proptest! {
        #[test]
        fn every_name_makes_a_header_that_says_it_once(name in any::<String>()) {
            let cid = Cid::of(Codec::Raw, b"x");
            let value = disposition("inline", &name, &cid);
            let text = value.to_str().expect("plain characters");
            let (plain, full) = text.split_once("\"; filename*=UTF-8''").expect("both forms");
            let plain = plain.strip_prefix("inline; filename=\"").expect("the plain form");
            prop_assert!(!plain.contains(['"', '\\', '/', '%', '\r', '\n']) && !["", ".", ".."].contains(&plain));
            let kept = match name.as_str() {
                "" | "." | ".." => cid.to_string(),
                name => name.replace(['/', '\\'], "_"),
            };
            prop_assert_eq!(percent_decode(full), kept.as_bytes());
        }

        #[test]
        fn no_media_type_makes_a_browser_run_what_it_is_shown(said in prop_oneof![".{0,60}", "[a-z]{1,6}/[a-z+;. =]{0,20}"]) {
            if let Some(shown) = inline_type(Some(&said)) {
                let shown = shown.to_str().expect("plain characters");
                let run = ["html", "xml", "svg", "script"].iter().any(|bad| shown.contains(bad));
                prop_assert!(!run || shown.starts_with("image/") || shown.starts_with("audio/") || shown.starts_with("video/"), "{}", shown);
                prop_assert!(["image/", "audio/", "video/", "text/plain", "application/pdf"].iter().any(|kind| shown.starts_with(kind)));
            }
        }
    }

    fn percent_decode(text: &str) -> Vec<u8> {
        let mut bytes = text.bytes();
        let mut out = Vec::new();
        while let Some(byte) = bytes.next() {
            let hex = (byte == b'%')
                .then(|| [bytes.next().expect("two digits"), bytes.next().expect("two digits")]);
            match hex {
                Some(hex) => out.extend(data_encoding::HEXUPPER.decode(&hex).expect("hex")),
                None => out.push(byte),
            }
        }
        out
    }
}
