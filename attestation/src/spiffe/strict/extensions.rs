//! The extensions of a certificate that readers take apart when they read it (RFC 5280, section
//! 4.2). All others are bytes to them.

use std::net::{IpAddr, Ipv6Addr};

use super::Checked;
use super::values::{
    self, BIT_STRING, BOOLEAN, INTEGER, OCTET_STRING, OID, SEQUENCE, Values, check_small_oid,
};

/// The content of the object identifier of the access to an authority's information.
const AUTHORITY_INFO: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 1, 1];
/// What the identifiers of most extensions begin with: 2.5.29.
const OF_CERTIFICATES: &[u8] = &[0x55, 0x1d];

/// The tags of names in general (RFC 5280, section 4.2.1.6).
const EMAIL: u8 = 0x81;
const DNS: u8 = 0x82;
const URI: u8 = 0x86;
const IP: u8 = 0x87;

/// Checks the extensions of a certificate, whose elements are well-formed.
pub(super) fn check(content: &[u8]) -> Checked {
    let mut outer = Values::of(content);
    let mut extensions = Values::of(outer.take(SEQUENCE)?);
    outer.end()?;
    let mut seen = Vec::new();
    while let Some(extension) = extensions.take_if(SEQUENCE)? {
        let mut extension = Values::of(extension);
        let id = extension.take(OID)?;
        check_small_oid(id)?;
        let critical = extension.take_if(BOOLEAN)? == Some(&[0xff]);
        let value = extension.take(OCTET_STRING)?;
        extension.end()?;
        if seen.contains(&id) {
            return Err("an extension stands twice");
        }
        seen.push(id);
        check_one(id, critical, value)?;
    }
    extensions.end()
}

fn check_one(id: &[u8], critical: bool, value: &[u8]) -> Checked {
    let kind = match id.strip_prefix(OF_CERTIFICATES) {
        Some([kind]) => *kind,
        _ if id == AUTHORITY_INFO => 0,
        _ => return Ok(()),
    };
    let check: fn(&mut Values<'_>) -> Checked = match kind {
        // The access to an authority's information, which has an identifier of its own.
        0 => sequence_of_identified,
        14 => |value| value.take(OCTET_STRING).map(drop),
        15 => |value| value.take(BIT_STRING).map(drop),
        17 => names,
        19 => basic_constraints,
        30 => name_constraints,
        31 => distribution_points,
        32 => policies,
        33 => policy_mappings,
        35 => |value| value.take(SEQUENCE).map(drop),
        36 => policy_constraints,
        37 => purposes,
        54 => |value| small_number(value.take(INTEGER)?),
        _ => return Ok(()),
    };
    if critical && matches!(kind, 0 | 14 | 35) {
        return Err("an extension is critical that must not be");
    }
    values::check_all(value)?;
    let mut value = Values::of(value);
    check(&mut value)?;
    value.end()
}

fn sequence_of_identified(value: &mut Values<'_>) -> Checked {
    let mut all = Values::of(value.take(SEQUENCE)?);
    while let Some(one) = all.take_if(SEQUENCE)? {
        check_small_oid(Values::of(one).take(OID)?)?;
    }
    all.end()
}

fn purposes(value: &mut Values<'_>) -> Checked {
    let mut all = Values::of(value.take(SEQUENCE)?);
    while let Some(purpose) = all.take_if(OID)? {
        check_small_oid(purpose)?;
    }
    all.end()
}

fn policies(value: &mut Values<'_>) -> Checked {
    let mut all = Values::of(value.take(SEQUENCE)?);
    let mut seen = Vec::new();
    while let Some(policy) = all.take_if(SEQUENCE)? {
        let id = Values::of(policy).take(OID)?;
        if seen.contains(&id) {
            return Err("a policy stands twice");
        }
        seen.push(id);
    }
    all.end()
}

fn policy_mappings(value: &mut Values<'_>) -> Checked {
    let mut all = Values::of(value.take(SEQUENCE)?);
    while let Some(mapping) = all.take_if(SEQUENCE)? {
        let mut mapping = Values::of(mapping);
        mapping.take(OID)?;
        mapping.take(OID)?;
        mapping.end()?;
    }
    all.end()
}

fn policy_constraints(value: &mut Values<'_>) -> Checked {
    let mut all = Values::of(value.take(SEQUENCE)?);
    for tag in [0x80, 0x81] {
        if let Some(number) = all.take_if(tag)? {
            values::check(INTEGER, number)?;
            small_number(number)?;
        }
    }
    all.end()
}

fn basic_constraints(value: &mut Values<'_>) -> Checked {
    let mut all = Values::of(value.take(SEQUENCE)?);
    all.take_if(BOOLEAN)?;
    if let Some(length) = all.take_if(INTEGER)? {
        small_number(length)?;
    }
    all.end()
}

/// Checks that a number, which is well-formed, has at most 31 bits and no sign.
fn small_number(number: &[u8]) -> Checked {
    let is_small = number.len() <= 4 && number.first().is_some_and(|first| *first < 0x80);
    is_small
        .then_some(())
        .ok_or("a number is too large, or negative")
}

fn distribution_points(value: &mut Values<'_>) -> Checked {
    let mut all = Values::of(value.take(SEQUENCE)?);
    while let Some(point) = all.take_if(SEQUENCE)? {
        if let Some(name) = Values::of(point).take_if(0xa0)? {
            let mut name = Values::of(name);
            name.take(0xa0)?;
            name.end()?;
        }
    }
    all.end()
}

fn names(value: &mut Values<'_>) -> Checked {
    let mut all = Values::of(value.take(SEQUENCE)?);
    while let Some((tag, name)) = all.take_any()? {
        let holds = match tag {
            EMAIL | DNS => name.is_ascii(),
            URI => is_uri(name),
            IP => is_address(name),
            _ => true,
        };
        if !holds {
            return Err("bad alternative name");
        }
    }
    Ok(())
}

fn name_constraints(value: &mut Values<'_>) -> Checked {
    let mut all = Values::of(value.take(SEQUENCE)?);
    let mut count = 0_usize;
    for tag in [0xa0, 0xa1] {
        let mut trees = Values::of(all.take_if(tag)?.unwrap_or_default());
        while let Some(tree) = trees.take_if(SEQUENCE)? {
            let (tag, name) = Values::of(tree).next()?;
            let holds = match tag {
                DNS => is_domain(name, true),
                EMAIL => is_mailbox_or_domain(name),
                URI => is_domain(name, true) && !is_ip_text(name),
                IP => is_network(name),
                _ => true,
            };
            if !holds {
                return Err("bad name constraint");
            }
            count = count.saturating_add(1);
        }
        trees.end()?;
    }
    if count == 0 {
        return Err("empty name constraints");
    }
    all.end()
}

/// Whether this is an address of IPv4 or IPv6, and not one of IPv4 in the form of IPv6.
fn is_address(bytes: &[u8]) -> bool {
    match <[u8; 16]>::try_from(bytes) {
        Ok(long) => Ipv6Addr::from(long).to_ipv4_mapped().is_none(),
        Err(_) => bytes.len() == 4,
    }
}

/// Whether this is an address with the mask of a prefix.
fn is_network(bytes: &[u8]) -> bool {
    let (address, mask) = bytes.split_at(bytes.len() / 2);
    let ones: u32 = mask.iter().map(|byte| byte.leading_ones()).sum();
    let mut is_prefix = mask.iter().scan(ones, |left, byte| {
        let own = (*left).min(8);
        *left -= own;
        Some(byte.leading_ones() == own && byte.count_ones() == own)
    });
    address.len() == mask.len() && is_address(address) && is_prefix.all(|is| is)
}

fn is_ip_text(name: &[u8]) -> bool {
    std::str::from_utf8(name).is_ok_and(|text| text.parse::<IpAddr>().is_ok())
}

fn is_mailbox_or_domain(name: &[u8]) -> bool {
    let at = name.iter().position(|byte| *byte == b'@');
    let Some((local, [_, domain @ ..])) = at.and_then(|at| name.split_at_checked(at)) else {
        return is_domain(name, true);
    };
    let mut atoms = local.split(|byte| *byte == b'.');
    let is_atom = |atom: &[u8]| {
        !atom.is_empty()
            && atom
                .iter()
                .all(|c| c.is_ascii_alphanumeric() || b"_+-".contains(c))
    };
    atoms.all(is_atom) && !domain.is_empty() && is_domain(domain, false)
}

/// Whether this is a name of a host; `below` also lets all names below one, with a dot before it,
/// and all names at all.
fn is_domain(name: &[u8], below: bool) -> bool {
    let own = match name {
        [] => return below,
        [b'.', rest @ ..] if below => rest,
        all => all,
    };
    let is_label = |label: &[u8]| {
        !label.is_empty()
            && label
                .iter()
                .all(|c| c.is_ascii_alphanumeric() || b"-_*".contains(c))
    };
    own.split(|byte| *byte == b'.').all(is_label)
}

/// Whether this is a URI (RFC 3986) that every reader takes: a scheme, a host by name or none, a
/// port, and characters that need no escape.
fn is_uri(uri: &[u8]) -> bool {
    let Some(colon) = uri.iter().position(|byte| *byte == b':') else {
        return false;
    };
    let (scheme, rest) = (uri.get(..colon).unwrap_or_default(), uri.get(colon..));
    let is_scheme = scheme.first().is_some_and(u8::is_ascii_alphabetic)
        && scheme
            .iter()
            .all(|c| c.is_ascii_alphanumeric() || b"+-.".contains(c));
    let rest = rest
        .and_then(|rest| rest.strip_prefix(b":"))
        .unwrap_or_default();
    let (host, path) = match rest.strip_prefix(b"//") {
        Some(rest) => {
            let end = rest.iter().position(|byte| b"/?#".contains(byte));
            rest.split_at(end.unwrap_or(rest.len()))
        }
        None => (&[][..], rest),
    };
    let mut parts = host.splitn(2, |byte| *byte == b':');
    let (name, port) = (parts.next().unwrap_or_default(), parts.next());
    let is_host = (name.is_empty() && port.is_none() || is_domain(name, false))
        && port.is_none_or(|port| !port.is_empty() && port.iter().all(u8::is_ascii_digit));
    is_scheme && is_host && is_path(path)
}

fn is_path(mut path: &[u8]) -> bool {
    while let [first, rest @ ..] = path {
        path = match (first, rest) {
            (b'%', [a, b, rest @ ..]) if a.is_ascii_hexdigit() && b.is_ascii_hexdigit() => rest,
            (c, rest) if c.is_ascii_alphanumeric() || b"-._~:/?#!$&'()*+,;=@".contains(c) => rest,
            _ => return false,
        };
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_every_reader_takes() {
        for uri in [
            "spiffe://partner.example",
            "spiffe://partner.example/a/b%20c?d=e#f",
            "https://a_b.example:8443/",
            "urn:uuid:01234567-89ab-4cde-8f01-23456789abcd",
            "ldap:///cn=a,dc=b",
        ] {
            assert!(is_uri(uri.as_bytes()), "{uri}");
        }
        for uri in [
            "",
            "partner",
            "://a",
            "1a:b",
            "a://b c",
            "a:%",
            "a:%2",
            "a:%zz",
            "a://b.",
            "a://.b",
            "a://b:",
            "a://b:c",
            "a://b@c",
            "a://[::1]",
            "a://b..c",
            "a:\\b",
            "a:\u{e9}",
        ] {
            assert!(!is_uri(uri.as_bytes()), "{uri}");
        }
        for (name, below, holds) in [
            ("a.example", false, true),
            (".a.example", true, true),
            (".a.example", false, false),
            ("", true, true),
            ("a.", true, false),
            ("a b", true, false),
        ] {
            assert_eq!(is_domain(name.as_bytes(), below), holds, "{name}");
        }
        for (name, holds) in [
            ("a@b.c", true),
            ("a.b@c", true),
            ("@b", false),
            ("a@", false),
        ] {
            assert_eq!(is_mailbox_or_domain(name.as_bytes()), holds, "{name}");
        }
    }

    #[test]
    fn addresses_and_networks_that_every_reader_takes() {
        let mapped = Ipv6Addr::from([0, 0, 0, 0, 0, 0xffff, 0x0102, 0x0304]).octets();
        assert!(is_address(&[10, 0, 0, 1]) && is_address(&[1; 16]));
        assert!(!is_address(&mapped) && !is_address(&[1; 5]) && !is_address(&[]));
        for (mask, holds) in [
            ([0, 0, 0, 0], true),
            ([0xff, 0xff, 0xf0, 0], true),
            ([0xff, 0xff, 0xff, 0xff], true),
            ([0xff, 0, 0xff, 0], false),
            ([0x0f, 0, 0, 0], false),
            ([0xfd, 0, 0, 0], false),
            ([0xf0, 0x80, 0, 0], false),
        ] {
            assert_eq!(is_network(&[&[10, 0, 0, 0][..], &mask].concat()), holds);
        }
        assert!(!is_network(&[0; 7]) && !is_network(&[]));
    }
}
