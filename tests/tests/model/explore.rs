//! The exploration of the small models, each to its end.

use std::fmt::Debug;
use std::hash::Hash;
use std::time::Instant;

use stateright::{Checker, Expectation, Model};

/// Explores every state of a model. Returns what it is, and what was found.
fn explored<M>(model: M) -> (String, impl Checker<M>)
where
    M: Model + Debug + Send + Sync + 'static,
    M::State: Clone + Debug + Hash + PartialEq + Send + Sync,
    M::Action: Clone + Debug + PartialEq,
{
    let (started, description) = (Instant::now(), format!("{model:?}"));
    let checker = model.checker().threads(2).spawn_bfs().join();
    let states = checker.unique_state_count();
    println!("{description}: {states} states, {:?}", started.elapsed());
    (description, checker)
}

/// Explores every state of a model. Each of its `always` must hold, and each of its `sometimes`
/// must be reached: a property of states that are never reached says nothing.
pub(crate) fn holds<M>(model: M)
where
    M: Model + Debug + Send + Sync + 'static,
    M::State: Clone + Debug + Hash + PartialEq + Send + Sync,
    M::Action: Clone + Debug + PartialEq,
{
    let properties = model.properties();
    let (description, checker) = explored(model);
    for property in properties {
        let found = checker.discovery(property.name);
        if property.expectation == Expectation::Sometimes {
            assert!(found.is_some(), "never reached: {}", property.name);
        } else if let Some(path) = found {
            let state = path.last_state().clone();
            let trace = path.into_actions();
            panic!(
                "{description}: not so: {}: {trace:?} {state:?}",
                property.name
            );
        }
    }
}

/// Explores a model from which a precaution is missing, until it finds that some `always` does not
/// hold.
pub(crate) fn breaks<M>(model: M)
where
    M: Model + Debug + Send + Sync + 'static,
    M::State: Clone + Debug + Hash + PartialEq + Send + Sync,
    M::Action: Clone + Debug + PartialEq,
{
    let properties = model.properties();
    let (description, checker) = explored(model);
    let violated = properties
        .iter()
        .filter(|property| property.expectation == Expectation::Always)
        .find_map(|property| checker.discovery(property.name));
    let path = violated.unwrap_or_else(|| {
        panic!("{description}: nothing goes wrong: is it needed, or is the model blind?")
    });
    println!("{:?}", path.into_actions());
}
