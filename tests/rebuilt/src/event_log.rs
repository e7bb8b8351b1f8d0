//! Event logs of measured boots (TCG "PC Client Platform Firmware Profile", section 10), in the
//! crypto-agile format.

pub mod hostile;

use std::collections::BTreeMap;
use std::sync::OnceLock;

use ring::digest::{Algorithm as Digest, SHA1_FOR_LEGACY_USE_ONLY, SHA256, SHA384, digest};

use crate::NOW_S;
use crate::certificate::{Certificate, Name, basic_constraints};
use crate::key::{Algorithm, Key};

/// `EV_NO_ACTION`.
pub const NO_ACTION: u32 = 3;
/// `EV_SEPARATOR`.
pub const SEPARATOR: u32 = 4;
/// `EV_S_CRTM_CONTENTS`.
const CRTM_CONTENTS: u32 = 7;
/// `EV_S_CRTM_VERSION`.
const CRTM_VERSION: u32 = 8;
/// `EV_POST_CODE`.
const POST_CODE: u32 = 1;
/// `EV_IPL`.
const IPL: u32 = 13;
/// `EV_NONHOST_INFO`.
const NONHOST_INFO: u32 = 17;
/// `EV_EFI_VARIABLE_DRIVER_CONFIG`.
pub const DRIVER_CONFIG: u32 = 0x8000_0001;
/// `EV_EFI_VARIABLE_BOOT`.
const VARIABLE_BOOT: u32 = 0x8000_0002;
/// `EV_EFI_BOOT_SERVICES_APPLICATION`.
const APPLICATION: u32 = 0x8000_0003;
/// `EV_EFI_GPT_EVENT`.
const GPT: u32 = 0x8000_0006;
/// `EV_EFI_ACTION`.
pub const ACTION: u32 = 0x8000_0007;
/// `EV_EFI_VARIABLE_AUTHORITY`.
pub const AUTHORITY: u32 = 0x8000_00e0;

/// `EFI_GLOBAL_VARIABLE` in the byte order of memory (UEFI specification, section 3.3).
const GLOBAL: [u8; 16] = [
    0x61, 0xdf, 0xe4, 0x8b, 0xca, 0x93, 0xd2, 0x11, 0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c,
];
/// `EFI_IMAGE_SECURITY_DATABASE_GUID`, of `db` and `dbx`.
const SECURITY: [u8; 16] = [
    0xcb, 0xb2, 0x19, 0xd7, 0x3a, 0x3d, 0x96, 0x45, 0xa3, 0xbc, 0xda, 0xd0, 0x0e, 0x67, 0x65, 0x6f,
];
/// The GUID of shim's variables.
const SHIM: [u8; 16] = [
    0x50, 0xab, 0x5d, 0x60, 0x46, 0xe0, 0x00, 0x43, 0xab, 0xb6, 0x3d, 0xd8, 0x10, 0xdd, 0x8b, 0x23,
];
/// `EFI_CERT_X509_GUID`, the type of a list of certificates.
const X509: [u8; 16] = [
    0xa1, 0x59, 0xc0, 0xa5, 0xe4, 0x94, 0xa7, 0x4a, 0x87, 0xb5, 0xab, 0x15, 0x5c, 0x2b, 0xf0, 0x72,
];
/// `EFI_CERT_SHA256_GUID`, the type of a list of digests.
const DIGESTS: [u8; 16] = [
    0x26, 0x16, 0xc4, 0xc1, 0x4c, 0x50, 0x92, 0x40, 0xac, 0xa9, 0x41, 0xf9, 0x36, 0x93, 0x43, 0x28,
];

/// A bank of PCRs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Bank {
    /// SHA-1.
    Sha1,
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
}

impl Bank {
    /// Returns the algorithm's id (`TPM_ALG_ID`).
    pub fn id(self) -> u16 {
        match self {
            Self::Sha1 => 4,
            Self::Sha256 => 0x0b,
            Self::Sha384 => 0x0c,
        }
    }

    fn algorithm(self) -> &'static Digest {
        match self {
            Self::Sha1 => &SHA1_FOR_LEGACY_USE_ONLY,
            Self::Sha256 => &SHA256,
            Self::Sha384 => &SHA384,
        }
    }

    fn digest(self, bytes: &[u8]) -> Vec<u8> {
        digest(self.algorithm(), bytes).as_ref().to_vec()
    }
}

/// An event, and what its digests are of.
#[derive(Clone, Debug)]
pub struct Event {
    /// The PCR.
    pub pcr: u32,
    /// The type.
    pub kind: u32,
    /// The bytes that the digests are of.
    pub measured: Vec<u8>,
    /// The content that the log has.
    pub content: Vec<u8>,
}

impl Event {
    fn new(pcr: u32, kind: u32, content: &[u8]) -> Self {
        Self::of(pcr, kind, content, content)
    }

    fn of(pcr: u32, kind: u32, measured: &[u8], content: &[u8]) -> Self {
        Self {
            pcr,
            kind,
            measured: measured.to_vec(),
            content: content.to_vec(),
        }
    }
}

/// A log, and the machine that wrote it.
#[derive(Clone, Debug)]
pub struct Log {
    /// The banks.
    pub banks: Vec<Bank>,
    /// The events in their order.
    pub events: Vec<Event>,
}

impl Log {
    /// Returns the log of a cloud's virtual machine: firmware by EDK II, shim, GRUB and Linux, in
    /// three banks.
    pub fn of_cloud(secure_boot: bool) -> Self {
        let mut log = Self {
            banks: vec![Bank::Sha1, Bank::Sha256, Bank::Sha384],
            events: vec![
                Event::new(0, CRTM_VERSION, &utf_16("Rebuilt Virtual Firmware")),
                Event::new(
                    0,
                    NONHOST_INFO,
                    &[b"Rebuilt NonHost\0", &[0; 16][..]].concat(),
                ),
            ],
        };
        log.policy(secure_boot);
        log.events
            .push(boot_variable("BootOrder", &[2, 0, 0, 0, 1, 0]));
        for (name, text) in [
            ("Boot0002", "disk"),
            ("Boot0000", "menu"),
            ("Boot0001", "shell"),
        ] {
            log.events.push(boot_variable(name, &load_option(text)));
        }
        let calling = b"Calling EFI Application from Boot Option";
        log.events.push(Event::new(4, ACTION, calling));
        log.separators();
        log.events.push(Event::new(5, GPT, &partitions(4)));
        log.events.extend(secure_boot.then(authority));
        log.events
            .push(application("\\EFI\\fedora\\shimx64.efi", b"shim"));
        log.shim();
        log.events.push(application("grubx64.efi", b"grub"));
        log.grub();
        log.events
            .push(Event::new(5, ACTION, b"Exit Boot Services Invocation"));
        log.events.push(Event::new(
            5,
            ACTION,
            b"Exit Boot Services Returned with Success",
        ));
        log
    }

    /// Returns the log of a computer: firmware of a maker, and an operating system without shim, in
    /// one bank.
    pub fn of_computer(secure_boot: bool) -> Self {
        let mut log = Self {
            banks: vec![Bank::Sha256],
            events: vec![
                Event::of(
                    0,
                    CRTM_CONTENTS,
                    b"boot block",
                    b"Boot Guard Measured S-CRTM\0",
                ),
                Event::new(0, CRTM_VERSION, &[0x37; 16]),
                Event::of(0, POST_CODE, b"firmware volume", &[0x11; 16]),
            ],
        };
        log.policy(secure_boot);
        log.separators();
        log.events.push(Event::new(5, GPT, &partitions(5)));
        log.events.push(boot_variable(
            "BootOrder",
            &[5, 0, 2, 0, 1, 0, 4, 0, 3, 0, 0, 0],
        ));
        for name in [
            "Boot0005", "Boot0002", "Boot0001", "Boot0004", "Boot0003", "Boot0000",
        ] {
            log.events.push(boot_variable(name, &load_option(name)));
        }
        log.events.push(application("firmware", b"setup"));
        log.events.extend(secure_boot.then(authority));
        log.events
            .push(application("\\EFI\\BOOT\\BOOTX64.EFI", b"loader"));
        log
    }

    /// Adds the policy of secure boot and the separator behind it.
    fn policy(&mut self, secure_boot: bool) {
        let certificates = |indices: &[usize]| -> Vec<u8> {
            let list = |index: &usize| signatures(X509, &[certificate(*index)]);
            indices.iter().flat_map(list).collect()
        };
        let forbidden: Vec<[u8; 32]> = (0..246).map(|byte| [byte; 32]).collect();
        let forbidden: Vec<&[u8]> = forbidden.iter().map(<[u8; 32]>::as_slice).collect();
        for (name, guid, data) in [
            ("SecureBoot", GLOBAL, vec![u8::from(secure_boot)]),
            ("PK", GLOBAL, certificates(&[0])),
            ("KEK", GLOBAL, certificates(&[1])),
            ("db", SECURITY, certificates(&[2, 3])),
            ("dbx", SECURITY, signatures(DIGESTS, &forbidden)),
        ] {
            let content = variable(guid, name, &data);
            self.events.push(Event::new(7, DRIVER_CONFIG, &content));
        }
        self.events.push(Event::new(7, SEPARATOR, &[0; 4]));
    }

    fn separators(&mut self) {
        let all = (0..7).map(|pcr| Event::new(pcr, SEPARATOR, &[0; 4]));
        self.events.extend(all);
    }

    fn shim(&mut self) {
        for name in ["MokList\0", "MokListX\0"] {
            let data = signatures(X509, &[certificate(4)]);
            self.events.push(Event::of(14, IPL, &data, name.as_bytes()));
        }
        let sbat = variable(SHIM, "SbatLevel", b"sbat,1,2022052400\n");
        let trusted = variable(SHIM, "MokListTrusted", &[1]);
        self.events.push(Event::new(7, AUTHORITY, &sbat));
        self.events.push(Event::new(7, AUTHORITY, &trusted));
        self.events
            .push(Event::of(14, IPL, &[1], b"MokListTrusted\0"));
    }

    fn grub(&mut self) {
        let mut file = |name: &str| {
            let content = [name.as_bytes(), &[0]].concat();
            let measured = [b"the bytes of ", name.as_bytes()].concat();
            self.events.push(Event::of(9, IPL, &measured, &content));
        };
        file("(hd0,gpt2)/EFI/fedora/grub.cfg");
        file("(hd0,gpt3)/grub2/grub.cfg");
        for index in 0..40 {
            let command = format!("set variable_{index}=value of {index}");
            let content = [b"grub_cmd: ", command.as_bytes(), &[0]].concat();
            self.events
                .push(Event::of(8, IPL, command.as_bytes(), &content));
        }
        let line = "(hd0,gpt3)/ostree/vmlinuz-6.1.0 ignition.platform.id=cloud ".repeat(5);
        let content = [b"kernel_cmdline: ", line.as_bytes(), &[0]].concat();
        self.events
            .push(Event::of(8, IPL, line.as_bytes(), &content));
        for name in [
            "(hd0,gpt3)/ostree/vmlinuz-6.1.0",
            "(hd0,gpt3)/ostree/initramfs-6.1.0",
        ] {
            let content = [name.as_bytes(), &[0]].concat();
            let measured = [b"the bytes of ", name.as_bytes()].concat();
            self.events.push(Event::of(9, IPL, &measured, &content));
        }
    }

    /// Returns the log as the firmware hands it over.
    pub fn bytes(&self) -> Vec<u8> {
        let mut header = b"Spec ID Event03\0".to_vec();
        header.extend([0, 0, 0, 0, 0, 2, 0, 2]);
        header.extend(little(self.banks.len()));
        for bank in &self.banks {
            let length = u16::try_from(bank.algorithm().output_len()).expect("short");
            header.extend(bank.id().to_le_bytes());
            header.extend(length.to_le_bytes());
        }
        header.push(0);
        let mut out = [&0_u32.to_le_bytes()[..], &NO_ACTION.to_le_bytes(), &[0; 20]].concat();
        out.extend(little(header.len()));
        out.extend(header);
        for event in &self.events {
            out.extend(event.pcr.to_le_bytes());
            out.extend(event.kind.to_le_bytes());
            out.extend(little(self.banks.len()));
            for bank in &self.banks {
                out.extend(bank.id().to_le_bytes());
                out.extend(bank.digest(&event.measured));
            }
            out.extend(little(event.content.len()));
            out.extend(&event.content);
        }
        out
    }

    /// Returns the values of all PCRs that the machine has extended.
    pub fn registers(&self, bank: Bank) -> BTreeMap<usize, Vec<u8>> {
        let mut registers = BTreeMap::new();
        for event in &self.events {
            let pcr = usize::try_from(event.pcr).expect("small");
            let zeros = vec![0; bank.algorithm().output_len()];
            let register = registers.entry(pcr).or_insert(zeros);
            *register = bank.digest(&[&register[..], &bank.digest(&event.measured)].concat());
        }
        registers
    }
}

fn little(length: usize) -> [u8; 4] {
    u32::try_from(length).expect("short").to_le_bytes()
}

/// Returns a text in UTF-16 with a zero at the end.
fn utf_16(text: &str) -> Vec<u8> {
    let units = text.encode_utf16().chain([0]);
    units.flat_map(u16::to_le_bytes).collect()
}

/// Returns `UEFI_VARIABLE_DATA`.
fn variable(guid: [u8; 16], name: &str, data: &[u8]) -> Vec<u8> {
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
fn boot_variable(name: &str, data: &[u8]) -> Event {
    Event::of(1, VARIABLE_BOOT, data, &variable(GLOBAL, name, data))
}

/// Returns `EFI_SIGNATURE_LIST` of signatures that are equally long.
fn signatures(kind: [u8; 16], all: &[&[u8]]) -> Vec<u8> {
    let size = 16 + all.first().map_or(0, |first| first.len());
    let mut out = kind.to_vec();
    for number in [28 + all.len() * size, 0, size] {
        out.extend(little(number));
    }
    out.extend(all.iter().flat_map(|signature| owned(signature)));
    out
}

/// Returns `EFI_SIGNATURE_DATA`: the owner and the signature.
fn owned(signature: &[u8]) -> Vec<u8> {
    [&SHIM, signature].concat()
}

/// Returns a certificate of the firmware's databases; it is the same for the whole process.
fn certificate(index: usize) -> &'static [u8] {
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
fn authority() -> Event {
    let content = variable(SECURITY, "db", &owned(certificate(2)));
    Event::new(7, AUTHORITY, &content)
}

/// Returns a device path of one file.
fn device_path(file: &str) -> Vec<u8> {
    let name = utf_16(file);
    let length = u16::try_from(4 + name.len()).expect("short");
    let node = [&[4, 4][..], &length.to_le_bytes(), &name].concat();
    [&node[..], &[0x7f, 0xff, 4, 0]].concat()
}

/// Returns `EFI_LOAD_OPTION`.
fn load_option(text: &str) -> Vec<u8> {
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
fn application(file: &str, image: &[u8]) -> Event {
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
fn partitions(count: usize) -> Vec<u8> {
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
