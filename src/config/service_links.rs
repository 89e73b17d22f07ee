//! Variables that Kubernetes sets for services. Those of a service named `storgo` begin with STORGO_, like settings.

/// Whether Kubernetes sets this variable in the containers beside a service whose name begins with `storgo`, as in
/// `STORGO_SERVICE_HOST`, `STORGO_PORT=tcp://10.0.0.1:3000` and `STORGO_PORT_3000_TCP_ADDR`.
pub(super) fn is_service_variable(name: &str, value: &str) -> bool {
    let is_link = |rest: &str| {
        let end = rest.trim_start_matches(|c: char| c.is_ascii_digit());
        end.len() < rest.len() && ["_TCP", "_UDP", "_SCTP"].iter().any(|protocol| end.starts_with(protocol))
    };
    name.ends_with("_SERVICE_HOST")
        || name.ends_with("_SERVICE_PORT")
        || name.contains("_SERVICE_PORT_")
        || (name.ends_with("_PORT") && value.contains("://"))
        || name.rsplit_once("_PORT_").is_some_and(|(_, rest)| is_link(rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_of_services_are_told_from_settings() {
        for (name, value) in [
            ("STORGO_SERVICE_HOST", "10.96.0.7"),
            ("STORGO_SERVICE_PORT", "3000"),
            ("STORGO_SERVICE_PORT_HTTP", "8080"),
            ("STORGO_PORT", "tcp://10.96.0.7:3000"),
            ("STORGO_PORT_3000_TCP", "tcp://10.96.0.7:3000"),
            ("STORGO_PORT_3000_TCP_PROTO", "tcp"),
            ("STORGO_PORT_3000_UDP_PORT", "3000"),
            ("STORGO_PORT_3000_TCP_ADDR", "10.96.0.7"),
            ("STORGO_HTTP_SERVICE_HOST", "10.96.0.8"),
            ("STORGO_HTTP_PORT_8080_TCP_ADDR", "10.96.0.8"),
        ] {
            assert!(is_service_variable(name, value), "{name}");
        }
        for (name, value) in
            [("STORGO_PORT", "8080"), ("STORGO_PORT_TCP", "x"), ("STORGO_CACHE_SIZE", "1 GiB")]
        {
            assert!(!is_service_variable(name, value), "{name}");
        }
    }
}
