//! SVIDs whose grounds are taken back.

use sundew_core::Event;

use super::*;

/// E9: evidence that is trusted no more ends the SVID that it gave, and no other.
#[tokio::test]
async fn e9_an_svid_ends_with_the_evidence_that_it_was_given_for() {
    let (broker, enrollment) = enrolling().await;
    let process = |claims: serde_json::Value| {
        let nodes = [id("/node")];
        json!({ "enrollment": [{ "kind": "process", "nodes": nodes, "claims": claims }] })
    };
    let approved = json!({ "uid": ["7"], "exe_sha256": { "reference": "agents" } });
    broker.register("/agent", process(approved)).await;
    let items = &broker.rooms.trust_items;
    let add = v1::AddTrustRequest {
        kind: "reference".to_owned(),
        name: "agents/aa".to_owned(),
        content: Vec::new(),
    };
    let added = Arc::clone(items).add_trust(broker.operator(), add).await;
    assert_eq!(added.unwrap().action, "created");
    let ca = enrollment.own_ca().unwrap();
    let workload = SpiffeId::parse(&id("/agent")).unwrap();
    let given_for = async |claim: &str| {
        let permit = ca.permit(&workload, Shown::Fresh, &[]).await.unwrap();
        let permit = ca.rest_on(permit, vec![claim.to_owned()], [claim]).unwrap();
        let svid = enrollment.issue(&permit, &csr(), "evidence").await;
        holder(&enrollment, svid.unwrap())
    };
    let peer = given_for("process.exe_sha256=aa").await;
    let other = given_for("process.exe_sha256=bb").await;
    let require = |peer: &Peer| {
        let grounds = peer.grounds().unwrap();
        assert!(!grounds.claims().is_empty());
        broker.ledger.require_not_taken_back(peer.id(), grounds)
    };
    let renewed = holder(&enrollment, renew(&enrollment, &peer).await.unwrap());
    require(&renewed).unwrap();

    let remove = v1::RemoveTrustRequest {
        kind: "reference".to_owned(),
        name: "agents/aa".to_owned(),
        reason: "withdrawn".to_owned(),
    };
    let removed = Arc::clone(items).remove_trust(broker.operator(), remove);
    removed.await.unwrap();
    for peer in [&peer, &renewed] {
        assert_refused!(require(peer), Refusal::GroundsWithdrawn);
        let again = renew(&enrollment, peer).await;
        assert_refused!(again, Refusal::GroundsWithdrawn);
    }
    require(&other).unwrap();
    assert!(renew(&enrollment, &other).await.is_ok());
    // As long as an SVID may live, the rule does.
    assert!(svid_rules_of_a_year(&broker) >= 2);

    // Whoever shows it anew later, once it is approved again, has an SVID of another time.
    clock::testing::advance(std::time::Duration::from_secs(2));
    let anew = given_for("process.exe_sha256=aa").await;
    require(&anew).unwrap();
    // A registration that takes less evidence for a first SVID ends all that were given for any.
    let narrower = json!({ "uid": ["7"], "exe_sha256": ["cc"] });
    broker.register("/agent", process(narrower)).await;
    assert_refused!(require(&other), Refusal::GroundsWithdrawn);
}

/// E9: a registration that is deleted ends all SVIDs of its ID, and join tokens that nobody has used,
/// whether or not somebody registers that ID again.
#[tokio::test]
async fn e9_a_deletion_ends_svids_and_join_tokens_for_whoever_has_the_id_next() {
    let (broker, enrollment) = enrolling().await;
    let (_, begun) = broker.agent_with_task().await;
    let task = TaskId::parse(&begun.id).unwrap();
    let task = broker.ledger.records.task(task).await.unwrap().unwrap();
    let ca = enrollment.own_ca().unwrap();
    let agent = SpiffeId::parse(&id("/agent")).unwrap();
    let mut peers = vec![enrolled(&broker, &enrollment).await];
    for shown in [Shown::Fresh, Shown::LocalProcess, Shown::Node(&task)] {
        let permit = ca.permit(&agent, shown, &[]).await.unwrap();
        let svid = enrollment.issue(&permit, &csr(), "test").await.unwrap();
        peers.push(holder(&enrollment, svid));
    }
    let permit = ca.permit(&agent, Shown::Fresh, &[]).await.unwrap();
    let claim = "process.exe_sha256=aa";
    let permit = ca.rest_on(permit, vec![claim.to_owned()], [claim]).unwrap();
    let svid = enrollment.issue(&permit, &csr(), "test").await.unwrap();
    peers.push(holder(&enrollment, svid));
    for at in 0..peers.len() {
        let renewed = renew(&enrollment, &peers[at]).await.unwrap();
        peers.push(holder(&enrollment, renewed));
    }
    let unused = create(&broker, &enrollment, &id("/agent"), 0)
        .await
        .unwrap();

    let delete = v1::DeleteWorkloadRequest {
        spiffe_id: id("/agent"),
    };
    let registry = Arc::clone(&broker.rooms.registry);
    let deleted = registry.delete_workload(broker.operator(), delete).await;
    deleted.unwrap();
    assert!(svid_rules_of_a_year(&broker) >= 1);
    broker.register("/agent", json!({})).await;
    // Nobody could tell this token from one of before.
    let at_once = create(&broker, &enrollment, &id("/agent"), 0).await;
    assert_refused!(at_once, Refusal::Conflict(_));
    clock::testing::advance(std::time::Duration::from_secs(2));
    broker.fresh().await;
    for peer in &peers {
        let grounds = peer.grounds().unwrap();
        let required = broker.ledger.require_not_taken_back(peer.id(), grounds);
        assert_refused!(required, Refusal::GroundsWithdrawn);
        assert!(renew(&enrollment, peer).await.is_err());
    }
    let late = redeem(&enrollment, &unused.join_token).await;
    assert_refused!(late, Refusal::GroundsWithdrawn);
    // Whoever enrolls anew has an SVID of another time.
    let anew = enrolled(&broker, &enrollment).await;
    assert!(renew(&enrollment, &anew).await.is_ok());
}

/// E9: a registration that means fewer local processes ends the SVIDs of such processes, and no other.
#[tokio::test]
async fn e9_local_svids_end_once_fewer_local_processes_are_meant() {
    let (broker, enrollment) = enrolling().await;
    let node = id("/node");
    let (_, begun) = broker.agent_with_task().await;
    let local = json!([{ "uid": 1 }, { "uid": 2 }, { "node": node, "uid": 3 }]);
    broker.register("/agent", json!({ "local": local })).await;
    let task = TaskId::parse(&begun.id).unwrap();
    let task = broker.ledger.records.task(task).await.unwrap().unwrap();
    let ca = enrollment.own_ca().unwrap();
    let agent = SpiffeId::parse(&id("/agent")).unwrap();
    let given_for = async |shown: Shown<'_>| {
        let permit = ca.permit(&agent, shown, &[]).await.unwrap();
        let svid = enrollment.issue(&permit, &csr(), "test").await.unwrap();
        let renewed = renew(&enrollment, &holder(&enrollment, svid)).await;
        holder(&enrollment, renewed.unwrap())
    };
    let local = given_for(Shown::LocalProcess).await;
    let on_node = given_for(Shown::Node(&task)).await;
    let joined = enrolled(&broker, &enrollment).await;
    let renews = async |peer: &Arc<Peer>| match renew(&enrollment, peer).await {
        Ok(_) => true,
        Err(Refusal::GroundsWithdrawn) => false,
        Err(other) => panic!("{other}"),
    };

    let more = json!([{ "uid": 1 }, { "uid": 2 }, { "node": node, "uid": 3 }, { "uid": 4 }]);
    broker.register("/agent", json!({ "local": more })).await;
    assert!(renews(&local).await);
    let narrower = json!([{ "uid": 1 }, { "uid": 2, "gid": 2 }, { "node": node, "uid": 3 }]);
    broker
        .register("/agent", json!({ "local": narrower }))
        .await;
    assert!(!renews(&local).await);
    assert!(renews(&on_node).await);
    broker.register("/agent", json!({ "local": [] })).await;
    assert!(!renews(&on_node).await);
    assert!(renews(&joined).await);
}

/// The number of rules about SVIDs that stand for as long as an SVID may live.
pub(super) fn svid_rules_of_a_year(broker: &TestBroker) -> usize {
    let view = broker.ledger.log.view().unwrap();
    let year_ms = 366 * 24 * 3_600_000;
    let stands = view.active_rules().into_iter().filter(|(_, entry, _)| {
        matches!(&entry.event, Event::Rule { selector, .. } if selector.is_about_svids())
            && view.matters_until_ms(entry) >= clock::now_ms() + year_ms
    });
    stands.count()
}
