//! The cost of verifying one piece of evidence, by kind: `cargo bench -p sundew-attestation`.
#![expect(
    clippy::unwrap_used,
    reason = "a benchmark on evidence that is known to be good"
)]

use std::hint::black_box;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use criterion::{Criterion, criterion_group, criterion_main};
use sundew_attestation::Roots;
use sundew_attestation::kinds::{nitro, sev_snp, tdx, tpm2};
use sundew_rebuilt::NOW_MS;
use sundew_rebuilt::nitro::Enclave;
use sundew_rebuilt::sev_snp::{Chip, Product};
use sundew_rebuilt::tdx::{Collateral, Form, Platform};

fn vector(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors");
    std::fs::read(folder.join(name)).unwrap()
}

fn verify(c: &mut Criterion) {
    let enclave = Enclave::new();
    let document = enclave.genuine();
    let roots = Roots {
        anchors: vec![enclave.root()],
        ..Roots::default()
    };
    c.bench_function("nitro", |b| {
        b.iter(|| nitro::verify(&document, &roots, &[9; 32], NOW_MS).unwrap())
    });
    c.bench_function("nitro, replayed", |b| {
        b.iter(|| black_box(nitro::verify(&document, &roots, &[0; 32], NOW_MS).is_err()))
    });

    let chip = Chip::new(Product::Milan);
    let roots = Roots {
        anchors: vec![chip.ark()],
        intermediates: vec![chip.intermediate(false)],
        ..Roots::default()
    };
    let evidence = sev_snp::Evidence {
        report: STANDARD.encode(chip.report(2, |_| {})),
        certificate: STANDARD.encode(chip.own_vcek()),
    };
    let evidence = serde_json::to_vec(&evidence).unwrap();
    let vcek = sev_snp::Endorsement::Vcek;
    c.bench_function("sev_snp", |b| {
        b.iter(|| sev_snp::verify(&evidence, &roots, vcek, &[7; 64], NOW_MS).unwrap())
    });

    let platform = Platform::new();
    let (root, quote) = (platform.root(), platform.genuine(Form::V4));
    let collateral = Collateral::genuine().signed_by(&platform);
    let collateral = tdx::Collateral::parse(&collateral).unwrap();
    c.bench_function("tdx", |b| {
        b.iter(|| tdx::verify_under(&root, &quote, [&collateral], &[7; 64], NOW_MS).unwrap())
    });

    let quote = vector("tpm2/quote.json");
    let key = tpm2::AttestationKey::parse(&vector("tpm2/key.json")).unwrap();
    c.bench_function("tpm2", |b| {
        b.iter(|| tpm2::verify(&quote, |_| Some(&key), &Roots::default(), &[9; 32], 0).unwrap())
    });

    // An attacker can send evidence of the largest size with nothing in it.
    let noise = vec![b'['; 16 << 10];
    c.bench_function("tdx, 16 KiB of noise", |b| {
        b.iter(|| black_box(tdx::verify(&noise, [&collateral], &[7; 64], 0).is_err()))
    });
    c.bench_function("nitro, 16 KiB of noise", |b| {
        b.iter(|| black_box(nitro::verify(&noise, &Roots::default(), &[0; 32], 0).is_err()))
    });
}

criterion_group!(benches, verify);
criterion_main!(benches);
