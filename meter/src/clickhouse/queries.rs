//! The named queries finance starts from: plain `.sql` files with ClickHouse's own parameters, so
//! that the same text works in any ClickHouse client.
//!
//! They read the aggregate projection of `usage_events` and not its rows, because they filter and
//! group by what the projection is made of (`toStartOfHour(ts)`, never bare `ts`).

/// A query and what it is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NamedQuery {
    /// Its name, the file's name without `.sql`.
    pub name: &'static str,
    /// Its text, with `{parameter:Type}` placeholders; the comment at its start explains them.
    pub sql: &'static str,
}

const ALL: [NamedQuery; 3] = [
    NamedQuery {
        name: "usage_by_tenant_meter_day",
        sql: include_str!("queries/usage_by_tenant_meter_day.sql"),
    },
    NamedQuery {
        name: "usage_by_level_meter_month",
        sql: include_str!("queries/usage_by_level_meter_month.sql"),
    },
    NamedQuery { name: "refusals_by_reason", sql: include_str!("queries/refusals_by_reason.sql") },
];

/// Every named query.
pub fn all() -> &'static [NamedQuery] {
    &ALL
}

/// The query of this name.
pub fn find(name: &str) -> Option<&'static NamedQuery> {
    ALL.iter().find(|query| query.name == name)
}
