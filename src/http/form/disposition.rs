//! `Content-Disposition` of a part of a form, as browsers and HTTP libraries write it.

use percent_encoding::percent_decode;

/// The names in a `Content-Disposition`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Disposition {
    pub(super) name: Option<String>,
    pub(super) file_name: Option<String>,
}

/// Parses `form-data; name="…"; filename="…"; filename*=UTF-8''…`. Names of parameters are case-insensitive, and
/// `filename*` comes before `filename` (RFC 6266).
///
/// Errors: what cannot be read.
pub(super) fn parse(value: &[u8]) -> Result<Disposition, &'static str> {
    let malformed = "the Content-Disposition of a part is malformed";
    let (kind, mut rest) = split(value, b';');
    if !kind.trim_ascii().eq_ignore_ascii_case(b"form-data") {
        return Err("the Content-Disposition of a part is not form-data");
    }
    let (mut name, mut file_name, mut extended) = (None, None, None);
    while let Some(text) = rest {
        if text.trim_ascii().is_empty() {
            break;
        }
        let equals = text.iter().position(|byte| *byte == b'=').ok_or(malformed)?;
        let key = text[..equals].trim_ascii().to_ascii_lowercase();
        let value;
        (value, rest) = parameter(text[equals + 1..].trim_ascii_start()).ok_or(malformed)?;
        let slot = match &key[..] {
            b"name" => &mut name,
            b"filename" => &mut file_name,
            b"filename*" => &mut extended,
            key if key.starts_with(b"filename*") => {
                return Err("the file name of a part is split into several parameters");
            }
            _ => continue,
        };
        if slot.replace(value).is_some() {
            return Err("the Content-Disposition of a part has a parameter twice");
        }
    }
    let utf8 = |value: Vec<u8>| {
        String::from_utf8(value).map_err(|_| "a name in the Content-Disposition of a part is not UTF-8")
    };
    let file_name = match (extended, file_name) {
        (Some(value), _) => Some(decode_extended(&value).ok_or("the filename* of a part cannot be decoded")?),
        (None, Some(value)) => Some(utf8(value)?),
        (None, None) => None,
    };
    Ok(Disposition { name: name.map(utf8).transpose()?, file_name })
}

/// Splits at the first `separator`; `None` if there is none.
fn split(text: &[u8], separator: u8) -> (&[u8], Option<&[u8]>) {
    match text.iter().position(|byte| *byte == separator) {
        Some(at) => (&text[..at], Some(&text[at + 1..])),
        None => (text, None),
    }
}

/// Reads the value of a parameter, quoted or not. Returns it and what follows the next semicolon.
fn parameter(text: &[u8]) -> Option<(Vec<u8>, Option<&[u8]>)> {
    let Some(quoted) = text.strip_prefix(b"\"") else {
        let (value, rest) = split(text, b';');
        return Some((value.trim_ascii_end().to_vec(), rest));
    };
    let (mut value, mut at) = (Vec::new(), 0);
    loop {
        match (*quoted.get(at)?, quoted.get(at + 1)) {
            (b'"', _) => break,
            // Browsers do not escape a backslash: at the end of the header it is part of the name, and the quote closes it.
            (b'\\', Some(b'"')) if quoted[at + 2..].trim_ascii().is_empty() => value.push(b'\\'),
            (b'\\', Some(escaped @ (b'"' | b'\\'))) => {
                value.push(*escaped);
                at += 1;
            }
            (byte, _) => value.push(byte),
        }
        at += 1;
    }
    let (between, rest) = split(&quoted[at + 1..], b';');
    between.trim_ascii().is_empty().then(|| (decode_quoted(&value), rest))
}

/// Decodes what browsers encode in a quoted name: a quote and line breaks (HTML, "multipart form data").
fn decode_quoted(value: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(value.len());
    let mut rest = value;
    while let Some((first, after)) = rest.split_first() {
        let code = rest.get(..3).map(<[u8]>::to_ascii_uppercase).unwrap_or_default();
        let byte = match &code[..] {
            b"%22" => Some(b'"'),
            b"%0A" => Some(b'\n'),
            b"%0D" => Some(b'\r'),
            _ => None,
        };
        decoded.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &rest[3..] } else { after };
    }
    decoded
}

/// Decodes `UTF-8'language'percent-encoded` (RFC 8187).
fn decode_extended(value: &[u8]) -> Option<String> {
    let (charset, rest) = split(value, b'\'');
    let (_, text) = split(rest?, b'\'');
    let text = text?;
    let is_encoded =
        |at: &usize| text.get(at + 1..at + 3).is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit));
    let percents = text.iter().enumerate().filter(|(_, byte)| **byte == b'%').map(|(at, _)| at);
    if !text.is_ascii() || !percents.into_iter().all(|at| is_encoded(&at)) {
        return None;
    }
    let bytes: Vec<u8> = percent_decode(text).collect();
    match &charset.to_ascii_lowercase()[..] {
        b"utf-8" => String::from_utf8(bytes).ok(),
        b"iso-8859-1" => Some(bytes.into_iter().map(char::from).collect()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn file_names_of_all_clients_are_read() {
        for (sent, name) in [
            (r#"filename="a b.txt""#, "a b.txt"),
            ("filename=plain.txt", "plain.txt"),
            (r#"Filename = "a.txt" "#, "a.txt"),
            (r#"filename="ü.txt""#, "ü.txt"),
            // Chromium, Firefox, curl and urllib3 encode quotes and line breaks, and nothing else.
            (r#"filename="a%22b%0D%0Ac%0a 100%25.txt""#, "a\"b\r\nc\n 100%25.txt"),
            // Go, and curl --form-escape.
            (r#"filename="a\"b\\c.txt""#, "a\"b\\c.txt"),
            (r#"filename="a\b.txt""#, "a\\b.txt"),
            (r#"filename="a\""#, "a\\"),
            ("filename*=UTF-8''%e2%82%ac%20rates", "€ rates"),
            ("filename*=utf-8'de'%C3%BC;", "ü"),
            ("filename*=ISO-8859-1''%FC", "ü"),
            ("filename=\"old.txt\"; filename*=UTF-8''new.txt", "new.txt"),
            (r#"filename="a;b=c.txt""#, "a;b=c.txt"),
            (r#"filename="""#, ""),
        ] {
            let disposition = parse(format!("Form-Data; name=\"f\"; {sent}").as_bytes()).expect(sent);
            assert_eq!(disposition.file_name.as_deref(), Some(name), "{sent}");
            assert_eq!(disposition.name.as_deref(), Some("f"), "{sent}");
        }
        let field = parse(b"form-data; name=note").expect("read");
        assert_eq!((field.name.as_deref(), field.file_name), (Some("note"), None));
    }

    #[test]
    fn a_name_that_cannot_be_read_is_an_error() {
        for sent in [
            &b"attachment; name=f; filename=a"[..],
            b"form-data; name=f; filename=\"\xfc.txt\"",
            b"form-data; name=f; filename=\"a.txt",
            b"form-data; name=f; filename=\"a\"b.txt\"",
            b"form-data; name=f; filename=\"a\\\"; size=\"1\"",
            b"form-data; name=f; filename",
            b"form-data; name=f; filename=a; filename=b",
            b"form-data; name=f; filename*=UTF-8''%FC",
            b"form-data; name=f; filename*=UTF-8''%F",
            b"form-data; name=f; filename*=EUC-JP''a",
            b"form-data; name=f; filename*=a.txt",
            b"form-data; name=f; filename*0=\"a\"; filename*1=\"b\"",
            b"",
        ] {
            assert!(parse(sent).is_err(), "{}", String::from_utf8_lossy(sent));
        }
    }

    proptest! {
        #[test]
        fn no_header_makes_the_parser_panic(value in proptest::collection::vec(any::<u8>(), 0..60), tail in "(; ?(file)?name\\*?=[\"%'a\\\\;]{0,9}){0,3}") {
            let value = [b"form-data", &value[..], tail.as_bytes()].concat();
            drop(parse(&value));
        }

        #[test]
        fn every_name_that_a_browser_sends_comes_back(name in "[^%]{0,30}") {
            // A browser never escapes a backslash, so two in a row and one before a quote are read otherwise.
            prop_assume!(!name.contains(r"\\") && !name.contains("\\\""));
            let sent = name.replace('"', "%22").replace('\r', "%0D").replace('\n', "%0A");
            let disposition = parse(format!("form-data; name=\"f\"; filename=\"{sent}\"").as_bytes()).expect("read");
            prop_assert_eq!(disposition.file_name, Some(name));
        }
    }
}
