//! Packets in requests of HTTP, as `fwknop -P http` sends them: the text is the path, with `-` for `+` and `_` for `/`.

use std::net::IpAddr;

/// What a request must have to be searched for a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestRules {
    /// Requests of any user agent are searched, not only those of fwknop.
    pub any_user_agent: bool,
    /// The header `X-Forwarded-For` names the source. Only a proxy in front of this server may be able to set it.
    pub forwarded_for: bool,
}

/// The text in a request, and its source if the request names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestPacket {
    /// The text, in the form that UDP has.
    pub text: Vec<u8>,
    /// The address in `X-Forwarded-For`.
    pub source: Option<IpAddr>,
}

/// Finds the text in the first segment of a request. None if it is not a GET request of the right user agent. The text
/// may still not be one of a packet.
#[must_use]
pub fn packet_in_request(segment: &[u8], rules: RequestRules) -> Option<RequestPacket> {
    let request = segment.strip_prefix(b"GET ")?;
    let mut lines = request.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii_end);
    let target = lines.next()?.split(|&byte| byte == b' ').next()?;
    let path = path_of(target)?;
    let (mut is_fwknop, mut source) = (false, None);
    for (name, value) in lines.filter_map(header) {
        if name.eq_ignore_ascii_case(b"User-Agent") {
            is_fwknop = value.starts_with(b"Fwknop");
        } else if name.eq_ignore_ascii_case(b"X-Forwarded-For") && rules.forwarded_for && source.is_none() {
            source = first_address(value);
        }
    }
    let translate = |&byte: &u8| match byte {
        b'-' => b'+',
        b'_' => b'/',
        other => other,
    };
    (is_fwknop || rules.any_user_agent)
        .then(|| RequestPacket { text: path.iter().map(translate).collect(), source })
}

/// The path after its first `/`, also of the form that clients send to a proxy, `http://host/path`.
fn path_of(target: &[u8]) -> Option<&[u8]> {
    let target = match target.strip_prefix(b"http://") {
        Some(rest) => rest.get(rest.iter().position(|&byte| byte == b'/')?..)?,
        None => target,
    };
    target.strip_prefix(b"/")
}

fn header(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = line.iter().position(|&byte| byte == b':')?;
    let (name, value) = line.split_at_checked(colon)?;
    Some((name, value.strip_prefix(b":")?.trim_ascii()))
}

fn first_address(value: &[u8]) -> Option<IpAddr> {
    let first = value.split(|&byte| byte == b',').next()?;
    std::str::from_utf8(first.trim_ascii()).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const STRICT: RequestRules = RequestRules { any_user_agent: false, forwarded_for: false };

    fn found(request: &str, rules: RequestRules) -> Option<(String, Option<String>)> {
        let packet = packet_in_request(request.as_bytes(), rules)?;
        Some((String::from_utf8(packet.text).unwrap(), packet.source.map(|source| source.to_string())))
    }

    #[test]
    fn the_path_is_the_text_with_the_two_letters_that_urls_lack() {
        let agent = "User-Agent: Fwknop/2.6.10\r\nHost: h\r\n\r\n";
        for (line, text) in [
            ("GET /8ab-_Z HTTP/1.1", Some("8ab+/Z")),
            ("GET http://example.org/9-_ HTTP/1.1", Some("9+/")),
            ("GET /9 HTTP/1.0", Some("9")),
            ("GET / HTTP/1.0", Some("")),
            ("GET http://example.org HTTP/1.0", None),
            ("GET 9 HTTP/1.0", None),
            ("POST /9 HTTP/1.0", None),
            ("get /9 HTTP/1.0", None),
        ] {
            let expected = text.map(|text| (text.to_owned(), None));
            assert_eq!(found(&format!("{line}\r\n{agent}"), STRICT), expected, "{line}");
        }
    }

    #[test]
    fn another_user_agent_and_a_forwarded_source_count_only_if_the_rules_permit_them() {
        let request =
            "GET /9 HTTP/1.1\r\nuser-agent: curl\r\nx-forwarded-for: 192.0.2.7, 198.51.100.1\r\n\r\n";
        let any = RequestRules { any_user_agent: true, forwarded_for: false };
        assert_eq!(found(request, STRICT), None);
        assert_eq!(found(request, any), Some(("9".to_owned(), None)));
        let forwarded = RequestRules { forwarded_for: true, ..any };
        assert_eq!(found(request, forwarded), Some(("9".to_owned(), Some("192.0.2.7".to_owned()))));
        let without = request.replace("192.0.2.7", "unknown");
        assert_eq!(found(&without, forwarded), Some(("9".to_owned(), None)));
    }

    proptest! {
        #[test]
        fn any_bytes_can_be_searched(bytes in prop::collection::vec(any::<u8>(), 0..200), agent: bool, source: bool) {
            let _ = packet_in_request(&bytes, RequestRules { any_user_agent: agent, forwarded_for: source });
        }
    }
}
