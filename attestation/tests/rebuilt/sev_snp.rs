//! Attestation reports of SEV-SNP guests, of each product line and version.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sundew_attestation::kinds::sev_snp::{self, Endorsement, SnpError};
use sundew_attestation::{Claims, Roots};
use sundew_rebuilt::NOW_MS;
use sundew_rebuilt::edits::{self, ber, fields};
use sundew_rebuilt::sev_snp::{Chip, FIELDS, Product, SIGNATURE, SIGNED, Tcb};

use crate::said;

const BOUND: [u8; 64] = [7; 64];

fn roots(chip: &Chip) -> Roots {
    Roots {
        anchors: vec![chip.ark()],
        intermediates: vec![chip.intermediate(false), chip.intermediate(true)],
        ..Roots::default()
    }
}

fn verify(
    report: &[u8],
    certificate: &[u8],
    roots: &Roots,
    endorsement: Endorsement,
) -> Result<Claims, SnpError> {
    let evidence = sev_snp::Evidence {
        report: STANDARD.encode(report),
        certificate: STANDARD.encode(certificate),
    };
    let evidence = serde_json::to_vec(&evidence).unwrap();
    sev_snp::verify(&evidence, roots, endorsement, &BOUND, NOW_MS)
}

#[test]
fn ac_05_rebuilt_snp_reports_of_all_versions_and_products_are_taken_under_their_own_chips_key() {
    for product in [Product::Milan, Product::Genoa, Product::Turin] {
        let (chip, other) = (Chip::new(product), Chip::new(product));
        let (roots, own, vcek) = (roots(&chip), chip.own_vcek(), Endorsement::Vcek);
        for version in 2..=5 {
            let report = chip.report(version, |_| {});
            let claims = verify(&report, &own, &roots, vcek).unwrap();
            for (name, value) in [("boot_loader", "3"), ("snp", "8"), ("microcode", "115")] {
                assert_eq!(
                    claims.values[&format!("tcb.{name}")],
                    [value],
                    "{product:?}"
                );
            }
            assert_eq!(claims.values["measurement"], ["ab".repeat(48)]);
            assert_eq!(claims.values["policy.abi"], ["0.31"]);
        }
        // T32: this chip's key at another TCB, another chip's key, and another chip's id.
        let report = chip.report(5, |_| {});
        let length = product.id_length();
        let higher = Tcb {
            microcode: Tcb::OWN.microcode + 1,
            ..Tcb::OWN
        };
        for (what, certificate) in [
            ("another TCB", chip.vcek_for(&chip.id[..length], higher)),
            ("another key", other.own_vcek()),
            ("another id", chip.vcek_for(&vec![0xEE; length], Tcb::OWN)),
            // A trusted certificate, but no endorsement key of a chip.
            ("the ASK", chip.intermediate(false)),
        ] {
            assert!(
                verify(&report, &certificate, &roots, vcek).is_err(),
                "{what}"
            );
        }
    }
}

#[test]
fn ac_05_a_rebuilt_snp_report_is_refused_for_another_binding_key_root_or_time() {
    let chip = Chip::new(Product::Milan);
    let (report, own, milan) = (chip.report(2, |_| {}), chip.own_vcek(), roots(&chip));
    let evidence = sev_snp::Evidence {
        report: STANDARD.encode(&report),
        certificate: STANDARD.encode(&own),
    };
    let evidence = serde_json::to_vec(&evidence).unwrap();
    let refused = |bound: &[u8; 64], endorsement, roots: &Roots, at| {
        sev_snp::verify(&evidence, roots, endorsement, bound, at).unwrap_err()
    };
    let (vcek, vlek) = (Endorsement::Vcek, Endorsement::Vlek);
    let error = refused(&[0; 64], vcek, &milan, NOW_MS);
    assert!(matches!(error, SnpError::Binding), "{error}");
    let error = refused(&BOUND, vlek, &milan, NOW_MS);
    assert!(matches!(error, SnpError::Endorsement), "{error}");
    let genoa = roots(&Chip::new(Product::Genoa));
    let seven_years = 7 * 365 * 86_400_000;
    for (what, roots, at) in [
        ("another product's root", &genoa, NOW_MS),
        ("no root", &Roots::default(), NOW_MS),
        ("after the certificate's end", &milan, NOW_MS + seven_years),
        ("before its begin", &milan, NOW_MS - seven_years),
    ] {
        let error = refused(&BOUND, vcek, roots, at);
        assert!(matches!(error, SnpError::Chain(_)), "{what}: {error}");
    }
}

#[test]
fn ac_05_a_rebuilt_vlek_report_is_taken_where_the_registration_wants_a_vlek() {
    let chip = Chip::new(Product::Milan);
    let (roots, certificate) = (roots(&chip), chip.vlek_for(Tcb::OWN));
    let (vcek, vlek) = (Endorsement::Vcek, Endorsement::Vlek);
    let report = chip.vlek_report(3, |_| {});
    assert!(verify(&report, &certificate, &roots, vlek).unwrap().fresh);
    let error = verify(&report, &certificate, &roots, vcek).unwrap_err();
    assert!(matches!(error, SnpError::Endorsement), "{error}");
    // Software at VMPL 1 requested it and not the guest's firmware.
    let report = chip.vlek_report(3, |report| report[0x30] = 1);
    let error = verify(&report, &certificate, &roots, vlek).unwrap_err();
    assert!(matches!(error, SnpError::Vmpl(1)), "{error}");
}

/// T32: what a genuine chip says of a guest that nobody should trust.
#[test]
fn ac_05_t32_snp_reports_of_guests_that_can_be_read_or_of_another_chip_are_refused() {
    let chip = Chip::new(Product::Milan);
    let (roots, own, vcek) = (roots(&chip), chip.own_vcek(), Endorsement::Vcek);
    type Change = fn(&mut [u8]);
    let refused: [(&str, Change); 9] = [
        ("debugging allowed", |r| r[0x0A] |= 1 << 3),
        ("a migration agent allowed", |r| r[0x0A] |= 1 << 2),
        ("requested from VMPL 1", |r| r[0x30] = 1),
        ("signed by a VLEK", |r| r[0x48] = 1 << 2),
        ("signed by no key", |r| r[0x48] = 7 << 2),
        ("other report data", |r| r[0x8F] = 8),
        ("another signature algorithm", |r| r[0x34] = 2),
        ("a version before 2", |r| r[0] = 1),
        ("a chip that hides its id", |r| r[0x1A0..0x1E0].fill(0)),
    ];
    for (what, change) in refused {
        let report = chip.report(3, change);
        assert!(
            verify(&report, &own, &roots, vcek).is_err(),
            "{what}: taken"
        );
    }
    let report = chip.report(3, |_| {});
    let bare = chip.vcek_of(&[], &[]);
    assert!(
        verify(&report, &bare, &roots, vcek).is_err(),
        "without AMD's extensions"
    );
}

/// Another chip's certificate, and this one's at another TCB, each component.
#[test]
fn e5_a_certificate_of_another_tcb_or_chip_is_refused() {
    for product in [Product::Milan, Product::Turin] {
        let chip = Chip::new(product);
        let (roots, length) = (roots(&chip), product.id_length());
        let (id, own) = (&chip.id[..length], Tcb::OWN.components(product));
        for version in [2, 3] {
            let report = chip.report(version, |_| {});
            let verify =
                |certificate: &[u8]| verify(&report, certificate, &roots, Endorsement::Vcek);
            for (at, (arc, _)) in own.iter().enumerate() {
                // Those between are reserved.
                if matches!(arc, 4..=7) {
                    continue;
                }
                let mut components = own.clone();
                components[at].1 += 1;
                let refused = verify(&chip.vcek_of(id, &components));
                let is_tcb = matches!(refused, Err(SnpError::Chip("TCB")));
                assert!(is_tcb, "{product:?}, component {arc}: {refused:?}");
                components.remove(at);
                let less = chip.vcek_of(id, &components);
                assert!(verify(&less).is_err(), "{product:?}, without {arc}");
            }
            let mut wide = id.to_vec();
            wide.resize(128, 1);
            for id in [&vec![0xEE; length][..], &id[1..], &[], &wide] {
                let refused = verify(&chip.vcek_of(id, &own));
                let is_chip = matches!(refused, Err(SnpError::Chip("chip id")));
                assert!(is_chip, "{product:?}: {refused:?}");
            }
        }
    }
}

/// The order of the components comes from AMD's certificate, and the report must be of that product
/// line.
#[test]
fn e5_the_order_of_components_is_not_the_claimants_choice() {
    let chip = Chip::new(Product::Turin);
    let report = chip.report(3, |report| report[0x188] = 0x19);
    let refused = verify(&report, &chip.own_vcek(), &roots(&chip), Endorsement::Vcek);
    let is_line = matches!(refused, Err(SnpError::Chip("product line")));
    assert!(is_line, "{refused:?}");
}

#[test]
fn t34_no_bit_of_a_rebuilt_snp_report_or_certificate_changes_what_it_says() {
    let chip = Chip::new(Product::Milan);
    let (roots, certificate, report) = (roots(&chip), chip.own_vcek(), chip.report(2, |_| {}));
    let taken = |report: &[u8], certificate: &[u8]| {
        said(verify(report, certificate, &roots, Endorsement::Vcek))
    };
    let free = edits::bits(&report, |report| taken(report, &certificate));
    // The bytes after the two numbers of the signature are reserved.
    let is_covered = |at: &&usize| **at < SIGNED + SIGNATURE;
    assert_eq!(free.iter().find(is_covered), None);
    // The maker's signature covers every bit of the certificate.
    let free = edits::bits(&certificate, |certificate| taken(&report, certificate));
    assert_eq!(free, Vec::<usize>::new());
}

/// The edits know the fields of a report and the elements of a certificate, and the attacker has a
/// chip of the same product line, whose genuine key may sign.
#[test]
fn t34_no_structural_edit_of_an_snp_report_or_certificate_changes_what_it_says() {
    let (chip, evil) = (Chip::new(Product::Milan), Chip::new(Product::Milan));
    let roots = roots(&chip);
    let (report, certificate) = (chip.report(3, |_| {}), chip.own_vcek());
    let theirs = evil.vcek_for(&[0xEE; 64], Tcb::OWN);
    let outcome = edits::structural(
        &(report.clone(), certificate.clone()),
        0x5eed_0000_0000_0002,
        |dice| {
            let mut bent = match dice.roll(3) {
                0 => report.clone(),
                _ => fields::edited(&report, &FIELDS, dice),
            };
            if dice.one_in(4) {
                bent = sundew_rebuilt::sev_snp::signed(bent, &evil.vcek);
            }
            let used = match dice.roll(4) {
                0 => theirs.clone(),
                1 => ber::edited(&theirs, dice),
                2 => ber::edited(&certificate, dice),
                _ => certificate.clone(),
            };
            (bent, used)
        },
        |(report, used)| {
            let verdict = verify(report, used, &roots, Endorsement::Vcek);
            let chip = verdict.as_ref().ok()?.values["chip_id"].clone();
            // The attacker's chip says with its own certificate what is true of it, and no more.
            if chip == [hex::encode([0xEE; 64])] && *used == theirs {
                return None;
            }
            said(verdict)
        },
    );
    assert!(outcome.taken < outcome.different / 10, "{outcome:?}");
}
