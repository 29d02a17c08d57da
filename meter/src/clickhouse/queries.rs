//! The named queries finance starts from: plain `.sql` files with ClickHouse's own parameters, so
//! that the same text works in any ClickHouse client.
//!
//! Those over whole hours read the aggregate projection of `usage_events` and not its rows, because
//! they filter and group by what the projection is made of (`toStartOfHour(ts)`, never bare `ts`).
//! Those of one meter in any window read rows.

/// A query and what it is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NamedQuery {
    /// Its name, the file's name without `.sql`.
    pub name: &'static str,
    /// Its text, with `{parameter:Type}` placeholders; the comment at its start explains them.
    pub sql: &'static str,
    /// Whether it reads the projection.
    pub is_hourly: bool,
}

const ALL: [NamedQuery; 5] = [
    NamedQuery {
        name: "usage_by_tenant_meter_day",
        sql: include_str!("queries/usage_by_tenant_meter_day.sql"),
        is_hourly: true,
    },
    NamedQuery {
        name: "usage_by_level_meter_month",
        sql: include_str!("queries/usage_by_level_meter_month.sql"),
        is_hourly: true,
    },
    NamedQuery {
        name: "refusals_by_reason",
        sql: include_str!("queries/refusals_by_reason.sql"),
        is_hourly: true,
    },
    NamedQuery {
        name: "meter_by_window",
        sql: include_str!("queries/meter_by_window.sql"),
        is_hourly: false,
    },
    NamedQuery {
        name: "gauge_by_window",
        sql: include_str!("queries/gauge_by_window.sql"),
        is_hourly: false,
    },
];

/// Every named query.
pub fn all() -> &'static [NamedQuery] {
    &ALL
}

/// The query of this name.
pub fn find(name: &str) -> Option<&'static NamedQuery> {
    ALL.iter().find(|query| query.name == name)
}
