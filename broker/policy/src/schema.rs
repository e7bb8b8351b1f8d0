//! The schema that every policy is validated against, and every question.

/// The schema, in Cedar's own language.
pub const SCHEMA: &str = include_str!("sundew.cedarschema");

/// The compiled schema.
#[derive(Debug)]
pub struct Schema(pub(crate) cedar_policy::Schema);

/// The reason why the schema cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the schema of policies cannot be read")]
pub struct SchemaError(#[source] Box<cedar_policy::CedarSchemaError>);

impl Schema {
    /// Compiles [`SCHEMA`].
    ///
    /// # Errors
    ///
    /// [`SchemaError`] if it is no schema, which a test of this crate rules out.
    pub fn new() -> Result<Self, SchemaError> {
        cedar_policy::Schema::from_cedarschema_str(SCHEMA)
            .map(|(schema, _)| Self(schema))
            .map_err(|error| SchemaError(Box::new(error)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_is_one_without_warnings() {
        let (_, warnings) = cedar_policy::Schema::from_cedarschema_str(SCHEMA).unwrap();
        assert_eq!(warnings.count(), 0);
    }
}
