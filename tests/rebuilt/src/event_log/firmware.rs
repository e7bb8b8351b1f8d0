//! Structures of the firmware that events have as their contents (UEFI specification).

use std::sync::OnceLock;

use super::{APPLICATION, AUTHORITY, Event, VARIABLE_BOOT};
use crate::NOW_S;
use crate::certificate::{Certificate, Name, basic_constraints};
use crate::key::{Algorithm, Key};

/// `EFI_GLOBAL_VARIABLE` in the byte order of memory (UEFI specification, section 3.3).
pub(super) const GLOBAL: [u8; 16] = [
    0x61, 0xdf, 0xe4, 0x8b, 0xca, 0x93, 0xd2, 0x11, 0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c,
];
/// `EFI_IMAGE_SECURITY_DATABASE_GUID`, of `db` and `dbx`.
pub(super) const SECURITY: [u8; 16] = [
    0xcb, 0xb2, 0x19, 0xd7, 0x3a, 0x3d, 0x96, 0x45, 0xa3, 0xbc, 0xda, 0xd0, 0x0e, 0x67, 0x65, 0x6f,
];
/// The GUID of shim's variables.
pub(super) const SHIM: [u8; 16] = [
    0x50, 0xab, 0x5d, 0x60, 0x46, 0xe0, 0x00, 0x43, 0xab, 0xb6, 0x3d, 0xd8, 0x10, 0xdd, 0x8b, 0x23,
];
/// `EFI_CERT_X509_GUID`, the type of a list of certificates.
pub(super) const X509: [u8; 16] = [
    0xa1, 0x59, 0xc0, 0xa5, 0xe4, 0x94, 0xa7, 0x4a, 0x87, 0xb5, 0xab, 0x15, 0x5c, 0x2b, 0xf0, 0x72,
];
/// `EFI_CERT_SHA256_GUID`, the type of a list of digests.
pub(super) const DIGESTS: [u8; 16] = [
    0x26, 0x16, 0xc4, 0xc1, 0x4c, 0x50, 0x92, 0x40, 0xac, 0xa9, 0x41, 0xf9, 0x36, 0x93, 0x43, 0x28,
];

pub(super) fn little(length: usize) -> [u8; 4] {
    u32::try_from(length).expect("short").to_le_bytes()
}

/// Returns a text in UTF-16 with a zero at the end.
pub(super) fn utf_16(text: &str) -> Vec<u8> {
    let units = text.encode_utf16().chain([0]);
    units.flat_map(u16::to_le_bytes).collect()
}

/// Returns `UEFI_VARIABLE_DATA`.
pub(super) fn variable(guid: [u8; 16], name: &str, data: &[u8]) -> Vec<u8> {
    let mut out = guid.to_vec();
    for length in [name.len(), data.len()] {
        out.extend(u64::try_from(length).expect("short").to_le_bytes());
    }
    let mut text = utf_16(name);
    text.truncate(2 * name.len());
    out.extend(text);
    out.extend(data);
    out
}

/// Of a variable of the boot, firmware of this age measures the data alone.
pub(super) fn boot_variable(name: &str, data: &[u8]) -> Event {
    Event::of(1, VARIABLE_BOOT, data, &variable(GLOBAL, name, data))
}

/// Returns `EFI_SIGNATURE_LIST` of signatures that are equally long.
pub(super) fn signatures(kind: [u8; 16], all: &[&[u8]]) -> Vec<u8> {
    let size = 16 + all.first().map_or(0, |first| first.len());
    let mut out = kind.to_vec();
    for number in [28 + all.len() * size, 0, size] {
        out.extend(little(number));
    }
    out.extend(all.iter().flat_map(|signature| owned(signature)));
    out
}

/// Returns `EFI_SIGNATURE_DATA`: the owner and the signature.
pub(super) fn owned(signature: &[u8]) -> Vec<u8> {
    [&SHIM, signature].concat()
}

/// Returns a certificate of the firmware's databases; it is the same for the whole process.
pub(super) fn certificate(index: usize) -> &'static [u8] {
    static ALL: [OnceLock<Vec<u8>>; 5] = [const { OnceLock::new() }; 5];
    ALL[index].get_or_init(|| {
        let (key, name) = (
            Key::new(Algorithm::P256),
            Name::new(&[("CN", "Sundew firmware")]),
        );
        Certificate {
            serial: &[1],
            issuer: &name,
            subject: &name,
            valid_s: (NOW_S - 86_400, NOW_S + 86_400),
            key: &key,
            extensions: vec![basic_constraints(true, None)],
        }
        .signed_by(&key)
    })
}

/// Returns the event of the certificate that has verified an image.
pub(super) fn authority() -> Event {
    let content = variable(SECURITY, "db", &owned(certificate(2)));
    Event::new(7, AUTHORITY, &content)
}

/// Returns a device path of one file.
pub(super) fn device_path(file: &str) -> Vec<u8> {
    let name = utf_16(file);
    let length = u16::try_from(4 + name.len()).expect("short");
    let node = [&[4, 4][..], &length.to_le_bytes(), &name].concat();
    [&node[..], &[0x7f, 0xff, 4, 0]].concat()
}

/// Returns `EFI_LOAD_OPTION`.
pub(super) fn load_option(text: &str) -> Vec<u8> {
    let path = device_path("\\EFI\\BOOT\\BOOTX64.EFI");
    let length = u16::try_from(path.len()).expect("short");
    [
        &[1, 0, 0, 0][..],
        &length.to_le_bytes(),
        &utf_16(text),
        &path,
    ]
    .concat()
}

/// Returns the event of an image: its digest is Authenticode's, and its content says where it is.
pub(super) fn application(file: &str, image: &[u8]) -> Event {
    let path = device_path(file);
    let mut content = Vec::new();
    for number in [
        0x7df6_e018_u64,
        0x000e_4e10,
        0,
        u64::try_from(path.len()).expect("short"),
    ] {
        content.extend(number.to_le_bytes());
    }
    content.extend(path);
    Event::of(4, APPLICATION, image, &content)
}

/// Returns `UEFI_GPT_DATA` of so many partitions.
pub(super) fn partitions(count: usize) -> Vec<u8> {
    let mut out = b"EFI PART".to_vec();
    out.extend([0, 0, 1, 0, 92, 0, 0, 0]);
    out.resize(92, 0x22);
    out.extend(u64::try_from(count).expect("short").to_le_bytes());
    for index in 0..count {
        let byte = u8::try_from(index + 1).expect("small");
        let mut entry = vec![byte; 32];
        entry.extend(2048_u64.to_le_bytes());
        entry.extend(4096_u64.to_le_bytes());
        entry.extend([0; 8]);
        let mut name = utf_16("partition");
        name.resize(72, 0);
        entry.extend(name);
        out.extend(entry);
    }
    out
}
