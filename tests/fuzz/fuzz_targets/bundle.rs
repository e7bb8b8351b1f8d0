#![no_main]
//! Trust bundles in PEM, JSON and DER, and responses of the Workload API: no panic, and what was taken
//! is taken again from its own DER, whole.
use libfuzzer_sys::fuzz_target;
use sundew_attestation::spiffe::{
    BundleSet, SvidChoice, SvidEntry, TrustBundle, TrustDomain, WorkloadResponse,
};

fuzz_target!(|document: &[u8]| {
    let domain = || TrustDomain::parse("example.org").unwrap();
    let concatenated = TrustBundle::from_concatenated_der(domain(), document);
    for bundle in TrustBundle::parse(domain(), document)
        .into_iter()
        .chain([concatenated])
    {
        let ders: Vec<Vec<u8>> = bundle.certificates().map(|c| c.to_vec()).collect();
        let apart = TrustBundle::from_der(domain(), ders.iter().map(Vec::as_slice));
        let together = TrustBundle::from_concatenated_der(domain(), &ders.concat());
        assert_eq!(apart.left_out().count() + together.left_out().count(), 0);
        assert!(apart.is_same(&together));
    }
    let entry = SvidEntry {
        spiffe_id: "spiffe://example.org/a",
        chain: document,
        bundle: document,
        hint: "",
    };
    let name = String::from_utf8_lossy(document);
    let federated = [("spiffe://partner.example", document), (&*name, document)];
    if let Ok(response) = WorkloadResponse::read(&[entry], federated, &SvidChoice::First) {
        let again = BundleSet::first_of([&response.bundles, &response.bundles]);
        assert!(again.is_same(&response.bundles));
    }
});
