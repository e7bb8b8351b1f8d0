//! Product lines of chips, and their TCB versions.

/// A product line, which decides the order of TCB components and the length of chip ids.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Product {
    /// EPYC 7003.
    Milan,
    /// EPYC 9004.
    Genoa,
    /// EPYC 9005.
    Turin,
}

impl Product {
    /// Returns the name that certificates have.
    pub fn name(self) -> &'static str {
        match self {
            Self::Milan => "Milan",
            Self::Genoa => "Genoa",
            Self::Turin => "Turin",
        }
    }

    /// Returns family, model and stepping as reports from version 3 on have them.
    pub fn cpuid(self) -> [u8; 3] {
        match self {
            Self::Milan => [0x19, 0x01, 0x01],
            Self::Genoa => [0x19, 0x11, 0x01],
            Self::Turin => [0x1A, 0x02, 0x01],
        }
    }

    /// Returns the length of a chip's id, in bytes.
    pub fn id_length(self) -> usize {
        match self {
            Self::Turin => 8,
            Self::Milan | Self::Genoa => 64,
        }
    }
}

/// A TCB version.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Tcb {
    /// The security version of the FMC, which Turin has in front of the others.
    pub fmc: u8,
    /// The security version of the boot loader.
    pub boot_loader: u8,
    /// The security version of the trusted execution environment.
    pub tee: u8,
    /// The security version of the SNP firmware.
    pub snp: u8,
    /// The lowest patch level of the cores.
    pub microcode: u8,
}

impl Tcb {
    /// The version of the rebuilt chips.
    pub const OWN: Self = Self {
        fmc: 1,
        boot_loader: 3,
        tee: 0,
        snp: 8,
        microcode: 115,
    };

    /// Returns TCB_VERSION in the order of a product line.
    pub fn bytes(self, product: Product) -> [u8; 8] {
        match product {
            Product::Turin => [
                self.fmc,
                self.boot_loader,
                self.tee,
                self.snp,
                0,
                0,
                0,
                self.microcode,
            ],
            Product::Milan | Product::Genoa => [
                self.boot_loader,
                self.tee,
                0,
                0,
                0,
                0,
                self.snp,
                self.microcode,
            ],
        }
    }

    /// Returns the components by the last arc of their identifiers, in the order of certificates.
    pub fn components(self, product: Product) -> Vec<(u8, u8)> {
        let mut out = vec![
            (1, self.boot_loader),
            (2, self.tee),
            (4, 0),
            (5, 0),
            (6, 0),
            (7, 0),
            (3, self.snp),
            (8, self.microcode),
        ];
        if product == Product::Turin {
            out.push((9, self.fmc));
        }
        out
    }
}
