//! Values with units.

use std::{fmt, net::SocketAddr, str::FromStr, time::Duration};

/// A number of bytes: `500 GiB`, `10MB`, `4096`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let unit: u64 = match text[end..].trim().to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "kb" => 1000,
            "mb" => 1_000_000,
            "gb" => 1_000_000_000,
            "tb" => 1_000_000_000_000,
            "k" | "kib" => 1 << 10,
            "m" | "mib" => 1 << 20,
            "g" | "gib" => 1 << 30,
            "t" | "tib" => 1 << 40,
            other => {
                return Err(format!(
                    "{other:?} is not a unit of bytes; use KB, MB, GB, TB, KiB, MiB, GiB or TiB"
                ));
            }
        };
        let (whole, part) = text[..end].split_once('.').unwrap_or((&text[..end], "0"));
        let number =
            |digits: &str| digits.parse::<u64>().map_err(|_| "expected a number of bytes".to_owned());
        let too_large = || "it is too large".to_owned();
        let bytes = number(whole)?.checked_mul(unit).ok_or_else(too_large)?;
        let scale = 10_u64.checked_pow(u32::try_from(part.len()).unwrap_or(99)).ok_or_else(too_large)?;
        let rest = u128::from(number(part)?) * u128::from(unit) / u128::from(scale);
        let total = u64::try_from(rest).ok().and_then(|rest| bytes.checked_add(rest)).ok_or_else(too_large);
        total.map(Self)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        indicatif::BinaryBytes(self.0).fmt(f)
    }
}

/// An IP address and a port; `localhost` means 127.0.0.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HttpAddr(pub SocketAddr);

impl FromStr for HttpAddr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let local = text.rsplit_once(':').filter(|(host, _)| host.eq_ignore_ascii_case("localhost"));
        if let Some((_, port)) = local {
            let port = port.parse().map_err(|_| format!("{port:?} is not a port"))?;
            return Ok(Self(SocketAddr::from(([127, 0, 0, 1], port))));
        }
        text.parse().map(Self).map_err(|_| "expected an IP address and a port".into())
    }
}

/// Parses a duration: `10m`, `1h 30m`, `500ms`; a bare number counts seconds.
///
/// # Errors
/// Says what is wrong.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let parsed = match text.trim().parse::<f64>() {
        Ok(seconds) => Duration::try_from_secs_f64(seconds).ok(),
        Err(_) => humantime::parse_duration(text.trim()).ok(),
    };
    parsed.ok_or_else(|| "expected seconds, or a time such as 500ms, 10m, 1h 30m or 7d".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_http_address_is_an_ip_address_or_localhost_with_a_port() {
        let read = |text: &str| text.parse::<HttpAddr>().map(|addr| addr.0.to_string());
        assert_eq!(read("localhost:8080"), Ok("127.0.0.1:8080".into()));
        assert_eq!(read("[::1]:1"), Ok("[::1]:1".into()));
        for text in ["localhost", "localhost:", "localhost:65536", "8080", "example.org:80", ""] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_and_durations_take_the_usual_units() {
        let cases = [
            ("4096", 4096),
            ("1 KiB", 1024),
            ("1kB", 1000),
            ("1.5 GiB", 3 << 29),
            ("10MB", 10_000_000),
            ("0", 0),
        ];
        for (text, bytes) in cases {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
        for text in ["", "GiB", "1 elephant", "-1", "99999999999999999999", "20000000 TiB", "1.1.1"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
        assert_eq!(parse_duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("1h 30m"), Ok(Duration::from_secs(5400)));
        assert!(parse_duration("soon").is_err() && parse_duration("-1").is_err());
    }
}
