//! Documents: the policies that one team applies together.

use std::fmt;
use std::str::FromStr;

use cedar_policy::{Policy, PolicyId, PolicySet, ValidationMode, Validator};
use cedar_policy_formatter::{Config, policies_str_to_pretty};
use ring::digest;

use crate::action::segments;
use crate::schema::Schema;

/// How deep a policy may look into entities: at those of the question, and no further.
const LEVEL: u32 = 1;
/// The annotations that policies may have.
const ANNOTATIONS: [&str; 3] = ["id", "owner", "reason"];
/// The longest text of a document, in bytes.
const MAX_TEXT: usize = 64 * 1024;

/// The digest of policies: the same text has the same version at every broker.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Version(String);

impl Version {
    pub(crate) fn of<'a>(parts: impl IntoIterator<Item = &'a str>) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        for part in parts {
            // With its length before it, no part can pass for two.
            context.update(format!("{}:", part.len()).as_bytes());
            context.update(part.as_bytes());
        }
        Self(hex::encode(context.finish()))
    }

    /// Returns the version in hexadecimal.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The reason why a text is not a document.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// An annotation means nothing, and its author would rely on it.
    #[error("unknown annotation `@{0}`: use `@id`, `@owner` and `@reason`")]
    Annotation(String),
    /// The text has no policy.
    #[error("the document has no policy: delete it if that is meant")]
    Empty,
    /// The text does not conform to the schema.
    #[error("{0}: see `sundew policy schema`")]
    Invalid(String),
    /// The name is not one.
    #[error("a name has 1 to 64 lower-case letters, digits, `-` and `_`")]
    Name,
    /// The text is not Cedar.
    #[error("{0}")]
    Syntax(String),
    /// A template cannot be used, because nothing links it.
    #[error("templates (`?principal`, `?resource`) cannot be used: write a policy for each")]
    Template,
    /// The text is longer than 64 KiB.
    #[error("a document is at most 64 KiB: split it")]
    TooLong,
}

/// Policies that were held against the schema, and where they apply.
#[derive(Clone, Debug)]
pub struct Document {
    name: String,
    prefix: Option<String>,
    text: String,
    version: Version,
    pub(crate) policies: Vec<Policy>,
}

impl Document {
    /// Reads a document that applies to a SPIFFE ID and what lies below it, or to everything.
    ///
    /// # Errors
    ///
    /// The first [`DocumentError`] that it has. What strict validation merely warns of is one too:
    /// a policy that can never apply is a mistake.
    pub fn parse(
        name: &str,
        prefix: Option<&str>,
        text: &str,
        schema: &Schema,
    ) -> Result<Self, DocumentError> {
        let named = name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_'));
        if name.is_empty() || name.len() > 64 || !named {
            return Err(DocumentError::Name);
        }
        if text.len() > MAX_TEXT {
            return Err(DocumentError::TooLong);
        }
        let syntax = |error: &dyn fmt::Display| DocumentError::Syntax(error.to_string());
        let set = PolicySet::from_str(text).map_err(|error| syntax(&error))?;
        if set.num_of_templates() > 0 {
            return Err(DocumentError::Template);
        }
        let unknown = set
            .policies()
            .flat_map(Policy::annotations)
            .find(|(key, _)| !ANNOTATIONS.contains(key));
        if let Some((key, _)) = unknown {
            return Err(DocumentError::Annotation(key.to_owned()));
        }
        let config = Config {
            line_width: 100,
            indent_width: 2,
        };
        let text = policies_str_to_pretty(text, &config).map_err(|error| syntax(&error))?;
        let found = Validator::new(schema.0.clone()).validate_with_level(
            &set,
            ValidationMode::Strict,
            LEVEL,
        );
        let errors = found.validation_errors().map(ToString::to_string);
        let warnings = found.validation_warnings().map(ToString::to_string);
        if let Some(problem) = errors.chain(warnings).next() {
            return Err(DocumentError::Invalid(problem));
        }
        // Cedar numbers the policies of a text: `policy0` becomes `name#0`.
        let policies: Vec<_> = set
            .policies()
            .map(|policy| {
                let id = policy.id().to_string();
                let number = id.strip_prefix("policy").unwrap_or(&id);
                policy.new_id(PolicyId::new(format!("{name}#{number}")))
            })
            .collect();
        if policies.is_empty() {
            return Err(DocumentError::Empty);
        }
        Ok(Self {
            name: name.to_owned(),
            prefix: prefix.map(str::to_owned),
            version: Version::of([name, prefix.unwrap_or_default(), &text]),
            text,
            policies,
        })
    }

    /// Returns the name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the text in the one layout that versions are made of.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Returns the version.
    #[must_use]
    pub fn version(&self) -> &Version {
        &self.version
    }

    /// Returns whether the document applies to this SPIFFE ID. A prefix ends at a segment.
    #[must_use]
    pub fn applies_to(&self, workload: &str) -> bool {
        self.prefix
            .as_deref()
            .is_none_or(|prefix| segments(workload).any(|part| part == prefix))
    }
}
