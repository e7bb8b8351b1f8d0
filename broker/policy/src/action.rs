//! Actions, and the questions about them that policies answer.

use std::collections::BTreeMap;
use std::collections::HashSet;
use std::str::FromStr;

use cedar_policy::{
    Context, Entities, Entity, EntityId, EntityTypeName, EntityUid, Request, RestrictedExpression,
};

use crate::schema::Schema;

/// The longest resource, in bytes: as long as the longest scope.
const MAX_RESOURCE: usize = 256;
/// The deepest nesting of attributes.
const MAX_DEPTH: usize = 8;

/// The kind of an action: the kind of the scope that covers it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// Reading or writing data.
    Data,
    /// Giving a part of a task to another workload.
    Delegate,
    /// Running a command.
    Exec,
    /// Using a file.
    File,
    /// Asking a model.
    Model,
    /// Speaking to a host.
    Net,
    /// Installing a package.
    Pkg,
    /// Reading a secret.
    Secret,
    /// Calling a tool.
    Tool,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 9] = [
        Self::Data,
        Self::Delegate,
        Self::Exec,
        Self::File,
        Self::Model,
        Self::Net,
        Self::Pkg,
        Self::Secret,
        Self::Tool,
    ];

    /// Returns the kind as scopes write it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::Delegate => "delegate",
            Self::Exec => "exec",
            Self::File => "file",
            Self::Model => "model",
            Self::Net => "net",
            Self::Pkg => "pkg",
            Self::Secret => "secret",
            Self::Tool => "tool",
        }
    }

    /// Returns the type of the resource in the schema.
    fn resource_type(self) -> &'static str {
        match self {
            Self::Data => "Sundew::Data",
            Self::Delegate => "Sundew::Peer",
            Self::Exec => "Sundew::Command",
            Self::File => "Sundew::File",
            Self::Model => "Sundew::Model",
            Self::Net => "Sundew::Host",
            Self::Pkg => "Sundew::Package",
            Self::Secret => "Sundew::Secret",
            Self::Tool => "Sundew::Tool",
        }
    }
}

/// A value among the attributes of an action. There are no fractions, because Cedar has none.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Attribute {
    /// Yes or no.
    Bool(bool),
    /// A whole number.
    Long(i64),
    /// Named values.
    Record(BTreeMap<String, Attribute>),
    /// Values without order; one that stands twice counts once.
    Set(Vec<Attribute>),
    /// A text, which is never read as anything else.
    Text(String),
}

/// Who says that the action is about to happen.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum AskedBy {
    /// Something that stands between the task and the resource.
    EnforcementPoint,
    /// The holder of the task, whose word is all there is.
    Holder,
}

/// What a task is about to do.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Action {
    kind: Kind,
    resource: String,
    attributes: BTreeMap<String, Attribute>,
}

/// The reason why something is not an action that policies can speak of. Each is a refusal.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ActionError {
    /// An attribute is unknown to the kind, is missing, or has another type.
    #[error("the attributes are not those of this kind of action: see `sundew policy schema`")]
    Attributes,
    /// There is no such kind.
    #[error("unknown kind of action: see `sundew policy schema`")]
    Kind,
    /// The resource is empty, too long, has a wildcard, or a segment that is empty, `.` or `..`.
    #[error("the resource must be one name of at most 256 bytes, in normal form")]
    Resource,
}

impl Action {
    /// Takes an action apart from its parts on the wire.
    ///
    /// # Errors
    ///
    /// The [`ActionError`] that says which part no policy can speak of.
    pub fn new(
        kind: &str,
        resource: &str,
        attributes: BTreeMap<String, Attribute>,
    ) -> Result<Self, ActionError> {
        let kind = Kind::ALL
            .into_iter()
            .find(|known| known.as_str() == kind)
            .ok_or(ActionError::Kind)?;
        let normal = resource
            .split('/')
            .all(|segment| !matches!(segment, "" | "." | "..") && !segment.contains('*'));
        if resource.len() > MAX_RESOURCE || !normal {
            return Err(ActionError::Resource);
        }
        if !attributes
            .values()
            .all(|value| is_shallow(value, MAX_DEPTH))
        {
            return Err(ActionError::Attributes);
        }
        Ok(Self {
            kind,
            resource: resource.to_owned(),
            attributes,
        })
    }
}

fn is_shallow(value: &Attribute, depth: usize) -> bool {
    let Some(below) = depth.checked_sub(1) else {
        return false;
    };
    match value {
        Attribute::Bool(_) | Attribute::Long(_) | Attribute::Text(_) => true,
        Attribute::Record(values) => values.values().all(|value| is_shallow(value, below)),
        Attribute::Set(values) => values.iter().all(|value| is_shallow(value, below)),
    }
}

/// Everything that a policy may look at.
#[derive(Clone, Debug)]
pub struct Question {
    /// The SPIFFE ID of the workload.
    pub workload: String,
    /// Who answers for the workload.
    pub owner: String,
    /// The labels of the registration.
    pub workload_labels: Vec<String>,
    /// The labels of the task's tree.
    pub task_labels: Vec<String>,
    /// How many tasks stand above the task.
    pub depth: u32,
    /// The time, in RFC 3339 with whole seconds in UTC.
    pub now: String,
    /// Who asks.
    pub asked_by: AskedBy,
    /// What is about to happen.
    pub action: Action,
}

/// A question as Cedar takes it.
pub(crate) struct Prepared {
    pub(crate) request: Request,
    pub(crate) entities: Entities,
}

impl Question {
    /// Makes the request and its entities, held against the schema.
    pub(crate) fn prepare(&self, schema: &Schema) -> Result<Prepared, ActionError> {
        let (resource, mut entities) = chain(
            self.action.kind.resource_type(),
            segments(&self.action.resource),
        )?;
        let (path, paths) = chain("Sundew::Path", segments(&self.workload))?;
        entities.extend(paths);
        let workload = uid("Sundew::Workload", &self.workload)?;
        let attributes = [
            ("owner".to_owned(), text(&self.owner)),
            ("labels".to_owned(), texts(&self.workload_labels)),
        ];
        entities.push(
            Entity::new(workload.clone(), attributes.into(), HashSet::from([path]))
                .map_err(|_| ActionError::Attributes)?,
        );
        let action = uid("Sundew::Action", self.action.kind.as_str())?;
        let request = Request::new(workload, action, resource, self.context()?, Some(&schema.0))
            .map_err(|_| ActionError::Attributes)?;
        let entities = Entities::from_entities(entities, Some(&schema.0))
            .map_err(|_| ActionError::Attributes)?;
        Ok(Prepared { request, entities })
    }

    fn context(&self) -> Result<Context, ActionError> {
        let asked_by = match self.asked_by {
            AskedBy::EnforcementPoint => "enforcement_point",
            AskedBy::Holder => "holder",
        };
        let task = record([
            ("labels".to_owned(), texts(&self.task_labels)),
            (
                "depth".to_owned(),
                RestrictedExpression::new_long(i64::from(self.depth)),
            ),
        ])?;
        let input = expression(&Attribute::Record(self.action.attributes.clone()))?;
        Context::from_pairs([
            (
                "now".to_owned(),
                RestrictedExpression::new_datetime(&self.now),
            ),
            ("asked_by".to_owned(), text(asked_by)),
            ("task".to_owned(), task),
            ("input".to_owned(), input),
        ])
        .map_err(|_| ActionError::Attributes)
    }
}

/// The prefixes of whole segments, from the longest, which is the text itself. The scheme and the
/// trust domain of a SPIFFE ID are one segment.
pub(crate) fn segments(text: &str) -> impl Iterator<Item = &str> {
    let fixed = text.find("://").map_or(0, |at| at + 3);
    let mut next = Some(text);
    std::iter::from_fn(move || {
        let here = next?;
        next = here
            .rfind('/')
            .filter(|at| *at >= fixed)
            .and_then(|at| here.get(..at));
        Some(here)
    })
}

/// Entities of which each lies in the next, and the ID of the first.
fn chain<'a>(
    entity_type: &str,
    names: impl Iterator<Item = &'a str>,
) -> Result<(EntityUid, Vec<Entity>), ActionError> {
    let uids = names
        .map(|name| uid(entity_type, name))
        .collect::<Result<Vec<_>, _>>()?;
    let first = uids.first().cloned().ok_or(ActionError::Resource)?;
    let parents = uids.iter().skip(1).cloned().map(Some).chain([None]);
    let entities = uids
        .iter()
        .cloned()
        .zip(parents)
        .map(|(uid, parent)| Entity::new_no_attrs(uid, parent.into_iter().collect()))
        .collect();
    Ok((first, entities))
}

fn uid(entity_type: &str, name: &str) -> Result<EntityUid, ActionError> {
    let entity_type = EntityTypeName::from_str(entity_type).map_err(|_| ActionError::Kind)?;
    Ok(EntityUid::from_type_name_and_id(
        entity_type,
        EntityId::new(name),
    ))
}

fn text(value: &str) -> RestrictedExpression {
    RestrictedExpression::new_string(value.to_owned())
}

fn texts(values: &[String]) -> RestrictedExpression {
    RestrictedExpression::new_set(values.iter().map(|value| text(value)))
}

fn record(
    fields: impl IntoIterator<Item = (String, RestrictedExpression)>,
) -> Result<RestrictedExpression, ActionError> {
    RestrictedExpression::new_record(fields).map_err(|_| ActionError::Attributes)
}

/// A value is built and never parsed: what a model wrote stays a text.
fn expression(value: &Attribute) -> Result<RestrictedExpression, ActionError> {
    Ok(match value {
        Attribute::Bool(value) => RestrictedExpression::new_bool(*value),
        Attribute::Long(value) => RestrictedExpression::new_long(*value),
        Attribute::Text(value) => text(value),
        Attribute::Set(values) => {
            let values = values
                .iter()
                .map(expression)
                .collect::<Result<Vec<_>, _>>()?;
            RestrictedExpression::new_set(values)
        }
        Attribute::Record(values) => {
            let fields = values
                .iter()
                .map(|(name, value)| Ok((name.clone(), expression(value)?)))
                .collect::<Result<Vec<_>, ActionError>>()?;
            record(fields)?
        }
    })
}
