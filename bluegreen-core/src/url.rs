//! What an environment's address may be, as far as that can be told without asking it.

/// Whether this is an address of an environment, `http://host[:port][/path]`: health paths are put behind it, and it is shown
/// and kept in the journal. The sentence goes on from what it is about, and repeats no password.
///
/// ```
/// use bluegreen_core::spec::check_url;
/// assert_eq!(check_url("https://[2001:db8::1]:8443/shop"), Ok(()));
/// assert!(check_url("https://user:secret@shop.internal").unwrap_err().starts_with("holds a user"));
/// ```
///
/// # Errors
/// What is wrong, and what is expected.
pub fn check_url(url: &str) -> Result<(), String> {
    let expected = "expected http://host[:port] or https://host[:port]";
    if url.contains('@') {
        return Err(format!(
            "holds a user or a password, which would be shown and kept in the journal: let the health paths be asked \
             without; {expected}"
        ));
    }
    let Some(rest) = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://")) else {
        return Err(format!("{url:?} does not begin with http:// or https://: {expected}"));
    };
    if url.contains(|c: char| c.is_whitespace() || c.is_control() || matches!(c, '?' | '#' | '\\')) {
        return Err(format!("{url:?} holds what paths cannot be put behind: {expected}"));
    }
    let authority = rest.split('/').next().unwrap_or_default();
    let (host, port) = match authority.strip_prefix('[').and_then(|v6| v6.split_once(']')) {
        Some((v6, port)) if v6.parse::<std::net::Ipv6Addr>().is_ok() => {
            (v6, port.strip_prefix(':').or(port.is_empty().then_some("80")))
        }
        Some(_) => ("", None),
        None => authority
            .split_once(':')
            .map_or((authority, Some("80")), |(host, port)| (host, Some(port))),
    };
    if host.is_empty()
        || port
            .and_then(|port| port.parse::<u16>().ok())
            .is_none_or(|port| port == 0)
    {
        return Err(format!("{url:?} names no host, or no port that there is: {expected}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_one_that_paths_can_be_put_behind() {
        for url in [
            "http://127.0.0.2:8080",
            "https://green.shop.internal",
            "https://green.shop.internal/shop/",
            "http://[::1]",
            "http://[2001:db8::1]:8443/",
        ] {
            assert_eq!(check_url(url), Ok(()), "{url}");
        }
        for (url, part) in [
            ("", "http://"),
            ("green.shop.internal", "http://"),
            ("ftp://green", "http://"),
            ("http://", "no host"),
            ("https:///api", "no host"),
            ("http://:80", "no host"),
            ("http://green:", "no port"),
            ("http://green:http", "no port"),
            ("http://green:0", "no port"),
            ("http://127.0.0.1:99999", "no port"),
            ("http://2001:db8::1", "no port"),
            ("http://[green]", "no host"),
            ("http://[::1", "no port"),
            ("http://[::1]8080", "no port"),
            ("https://green/#/login", "cannot be put behind"),
            ("https://green?deep=1", "cannot be put behind"),
            ("https://gre en", "cannot be put behind"),
            ("https://green\n", "cannot be put behind"),
        ] {
            let said = check_url(url).unwrap_err();
            assert!(said.contains(part) && said.contains("expected"), "{url}: {said}");
        }
    }

    #[test]
    fn no_password_is_taken_or_repeated() {
        for url in [
            "https://user:geheim@green",
            "user:geheim@green",
            "https//user:geheim@green",
            "https://geheim@green",
        ] {
            let said = check_url(url).unwrap_err();
            assert!(said.contains("a password") && !said.contains("geheim"), "{said}");
        }
    }
}
