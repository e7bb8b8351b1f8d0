//! Event logs of measured boots (TCG "PC Client Platform Firmware Profile", section 10), in the
//! crypto-agile format.

mod firmware;
pub mod hostile;

use std::collections::BTreeMap;

use ring::digest::{Algorithm, SHA1_FOR_LEGACY_USE_ONLY, SHA256, SHA384, digest};

use firmware::{
    DIGESTS, GLOBAL, SECURITY, SHIM, X509, application, authority, boot_variable, certificate,
    little, load_option, partitions, signatures, utf_16, variable,
};

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

    fn algorithm(self) -> &'static Algorithm {
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
