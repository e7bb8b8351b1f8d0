//! The cost of verifying one piece of evidence, by kind: `cargo bench -p sundew-attestation`.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a benchmark on evidence that is known to be good"
)]

use std::hint::black_box;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use criterion::{Criterion, criterion_group, criterion_main};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use sundew_attestation::Roots;
use sundew_attestation::kinds::{nitro, sev_snp, tdx, tpm2};

fn vector(name: &str) -> Vec<u8> {
    std::fs::read(
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../tests/vectors")
            .join(name),
    )
    .unwrap()
}

fn der(name: &str) -> Vec<u8> {
    CertificateDer::from_pem_slice(&vector(name))
        .unwrap()
        .to_vec()
}

fn verify(c: &mut Criterion) {
    let document = vector("nitro/aws_nitro_document.cbor");
    let roots = Roots {
        anchors: vec![der("nitro/aws_nitro_root_cert.pem")],
        ..Roots::default()
    };
    let nonce: [u8; 32] = [
        198, 120, 200, 97, 53, 222, 83, 157, 24, 58, 207, 245, 136, 134, 217, 141, 251, 152, 35, 4,
        26, 249, 249, 52, 191, 144, 154, 192, 248, 217, 98, 69,
    ];
    c.bench_function("nitro", |b| {
        b.iter(|| nitro::verify(&document, &roots, &nonce, 1_668_034_320_696).unwrap())
    });
    c.bench_function("nitro, replayed", |b| {
        b.iter(|| black_box(nitro::verify(&document, &roots, &[0; 32], 1_668_034_320_696).is_err()))
    });

    let report = vector("sev-snp/test-report.bin");
    let bound: [u8; 64] = report[0x50..0x90].try_into().unwrap();
    let roots = Roots {
        anchors: vec![der("sev-snp/amd-roots/milan/ark.pem")],
        intermediates: vec![der("sev-snp/amd-roots/milan/ask.pem")],
        ..Roots::default()
    };
    let evidence = sev_snp::Evidence {
        report: STANDARD.encode(&report),
        certificate: STANDARD.encode(vector("sev-snp/test-vcek.der")),
    };
    let evidence = serde_json::to_vec(&evidence).unwrap();
    c.bench_function("sev_snp", |b| {
        b.iter(|| {
            sev_snp::verify(
                &evidence,
                &roots,
                sev_snp::Endorsement::Vcek,
                &bound,
                1_735_689_600_000,
            )
            .unwrap()
        })
    });

    let quote = vector("tdx/tdx_quote");
    let collateral = tdx::Collateral::parse(&vector("tdx/tdx_quote_collateral.json")).unwrap();
    let bound = dcap_qvl::quote::Quote::parse(&quote)
        .unwrap()
        .report
        .as_td10()
        .unwrap()
        .report_data;
    c.bench_function("tdx", |b| {
        b.iter(|| tdx::verify(&quote, [&collateral], &bound, 1_751_000_000_000).unwrap())
    });

    let quote = vector("tpm2/quote.json");
    let key = tpm2::AttestationKey::parse(&vector("tpm2/key.json")).unwrap();
    c.bench_function("tpm2", |b| {
        b.iter(|| tpm2::verify(&quote, |_| Some(&key), &Roots::default(), &[9; 32], 0).unwrap())
    });

    // An attacker can send evidence of the largest size with nothing in it.
    let noise = vec![b'['; 16 << 10];
    c.bench_function("tdx, 16 KiB of noise", |b| {
        b.iter(|| black_box(tdx::verify(&noise, [&collateral], &bound, 0).is_err()))
    });
    c.bench_function("nitro, 16 KiB of noise", |b| {
        b.iter(|| black_box(nitro::verify(&noise, &Roots::default(), &[0; 32], 0).is_err()))
    });
}

criterion_group!(benches, verify);
criterion_main!(benches);
