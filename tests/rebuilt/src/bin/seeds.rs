//! Writes what fuzzing begins with: `seeds FOLDER` makes `corpus/TARGET` with inputs for each
//! target, and `material` with the genuine evidence and its roots, all under keys made now.

use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sundew_rebuilt::aws_iid::{DATA, DOCUMENT, Region};
use sundew_rebuilt::event_log::{Bank, Log};
use sundew_rebuilt::nitro::Enclave;
use sundew_rebuilt::sev_snp::{Chip, Product, Tcb};
use sundew_rebuilt::tdx::{Collateral, Form, Platform};

fn main() {
    let folder = std::env::args_os().nth(1).expect("a folder");
    let folder = PathBuf::from(folder);
    let write = |place: &str, name: &str, content: &[u8]| {
        let folder = folder.join(place);
        fs::create_dir_all(&folder).expect("the folder is made");
        fs::write(folder.join(name), content).expect("the file is written");
    };
    let seed = |target: &str, name: &str, content: &[u8]| {
        write(&format!("corpus/{target}"), name, content);
    };
    let material = |name: &str, content: &[u8]| write("material", name, content);

    let enclave = Enclave::new();
    material("nitro.root", &enclave.root());
    material("nitro.document", &enclave.genuine());
    seed("nitro", "document", &enclave.genuine());
    seed("nitro", "debug", &enclave.with("pcrs", None));

    let chip = Chip::new(Product::Milan);
    material("sev_snp.ark", &chip.ark());
    material("sev_snp.ask", &chip.intermediate(false));
    material("sev_snp.vcek", &chip.own_vcek());
    material("sev_snp.report", &chip.report(3, |_| {}));
    for version in 2..=5 {
        let report = chip.report(version, |_| {});
        seed(
            "sev_snp",
            &format!("report-{version}"),
            &choice(false, &report),
        );
    }
    seed("sev_snp", "vcek", &choice(true, &chip.own_vcek()));
    seed("sev_snp", "vlek", &choice(true, &chip.vlek_for(Tcb::OWN)));

    let platform = Platform::new();
    let collateral = Collateral::genuine().signed_by(&platform);
    material("tdx.root", &platform.root());
    material("tdx.quote", &platform.genuine(Form::V4));
    material("tdx.collateral", &collateral);
    for form in Form::ALL {
        let quote = platform.genuine(form);
        seed("tdx", &format!("{form:?}"), &choice(false, &quote));
    }
    seed("tdx", "collateral", &choice(true, &collateral));

    let region = Region::new();
    material("aws_iid.region", &region.certificate());
    material("aws_iid.document", &region.genuine());
    seed("aws_iid", "document", &region.genuine());
    let segments = region.document(DOCUMENT.as_bytes(), DATA, 100);
    seed("aws_iid", "segments", &segments);
    seed("signed", "document", DOCUMENT.as_bytes());

    for (name, log) in [
        ("cloud", Log::of_cloud(true)),
        ("computer", Log::of_computer(false)),
    ] {
        material(&format!("event_log.{name}"), &log.bytes());
        seed("event_log", name, &log.bytes());
    }
    let registers: serde_json::Map<_, _> = Log::of_cloud(true)
        .registers(Bank::Sha256)
        .into_iter()
        .map(|(pcr, value)| (pcr.to_string(), hex::encode(value).into()))
        .collect();
    let registers = serde_json::Value::from(registers).to_string();
    material("event_log.registers", registers.as_bytes());
    let vectors = Path::new(env!("CARGO_MANIFEST_DIR")).join("../vectors/tpm2");
    for name in ["quote.json", "key.json"] {
        let content = fs::read(vectors.join(name)).expect("the vector is there");
        seed("tpm2", name, &content);
        let value: serde_json::Value = serde_json::from_slice(&content).expect("JSON");
        for member in ["quote", "key", "parent"] {
            if let Some(Ok(area)) = value[member].as_str().map(|text| STANDARD.decode(text)) {
                seed("tpm2", &format!("{name}.{member}"), &area);
            }
        }
    }
}

/// Returns an input for targets that bend one of two things: the first byte chooses.
fn choice(second: bool, bytes: &[u8]) -> Vec<u8> {
    [&[u8::from(second)], bytes].concat()
}
