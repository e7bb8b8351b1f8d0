//! A TPM whose endorsement key has a certificate in the shape of each maker's (E13).

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::json;
use sundew_rebuilt::certificate::pem;
use sundew_rebuilt::endorsement::Maker;
use sundew_tests::sundew;
use sundew_tests::tpm::Tpm;
use sundew_tests::world::World;

use crate::activation::{begin, ek, wanted};
use crate::cli::text;

fn write(path: &Path, certificates: &[Vec<u8>]) {
    let certificates: Vec<&[u8]> = certificates.iter().map(Vec::as_slice).collect();
    std::fs::write(path, pem(&certificates)).expect("file");
}

/// E13: with the published certificates of the maker as trusted items, and what is in the chip from the
/// host, the key of a real TPM is activated and evidence by it is taken.
#[tokio::test]
async fn e13_a_tpm_with_a_certificate_in_the_shape_of_each_maker_is_activated() {
    let world = World::embedded();
    let broker = world.broker().await;
    let operator = world.operator(&broker);
    let svid = world.folder().join("agent");
    let root = std::slice::from_ref(&world.ca.certificate);
    world.ca.svid("/agent").write(&svid, root);
    let file = |name: &str| world.folder().join(name);
    for maker in Maker::ALL {
        // A new one each time: a TPM's key is known once it was activated.
        let tpm = Tpm::new("ecc", "sha256", "ecdsa");
        let evidence = json!({ "evidence": wanted(json!({ "ek": [ek(&tpm)] })) });
        let chain = maker.certify(&tpm.endorsement_key());
        write(&file("certificate.pem"), &[chain.certificate]);
        write(&file("intermediates.pem"), &chain.intermediates);
        let activate = || {
            let mut command = Command::new(sundew());
            command
                .args(["attest", "activate", "--tpm"])
                .arg(tpm.device())
                .arg("--certificate")
                .arg(file("certificate.pem"))
                .env("SUNDEW_BROKER", broker.address())
                .env("SUNDEW_SVID_DIR", &svid);
            if !chain.intermediates.is_empty() {
                command
                    .arg("--intermediates")
                    .arg(file("intermediates.pem"));
            }
            command.stdin(Stdio::null()).output().expect("run")
        };
        let unknown = activate();
        assert!(!unknown.status.success(), "{maker:?} is not trusted yet");
        let published: Vec<&[u8]> = chain.published.iter().map(Vec::as_slice).collect();
        let name = format!("{maker:?}");
        operator
            .trust("tpm2_ek_root", &name, &pem(&published))
            .await;
        world.register(&broker, "/agent", evidence).await;
        let activated = activate();
        let said = text(&activated);
        assert!(
            activated.status.success() && said.contains(&ek(&tpm)),
            "{maker:?}: {said}"
        );
        let begun = begin(&world.caller(&broker, "/agent"), &tpm).await;
        begun.unwrap_or_else(|refused| panic!("{maker:?}: {refused}"));
    }
}
