//! `orbit key new`: makes an API key.

use clap::Subcommand;
use orbit_policy::ApiKey;

use super::output;

/// Work on API keys
#[derive(Subcommand)]
pub(super) enum Key {
    /// Make a key: print it once, and the lines that make it known
    #[command(after_help = "\
Examples:
  orbit key new --env live --tenant acme-web
  orbit key new --env test --tenant acme-web --label \"nightly import\"

The key is random and is not stored anywhere: only its hash goes into the policy documents. Give the
key to the client, add the printed lines to a file below the policy paths, and it works within a
second.")]
    New {
        /// Environment label in the key, for people and secret scanners: 1 to 8 letters a to z
        #[arg(long, value_name = "LABEL", default_value = "live")]
        env: String,
        /// The tenant whose key it is
        #[arg(long, value_name = "ID", value_parser = tenant_id)]
        tenant: String,
        /// What it is for
        #[arg(long, value_name = "TEXT")]
        label: Option<String>,
    },
}

impl Key {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let Key::New { env, tenant, label } = self;
        let key = ApiKey::generate(&env)?;
        output::line(format_args!("# The key, shown this once:\n{}\n", key.reveal()));
        output::line("# Add to a file below the policy paths:");
        output::line(table(&key, &tenant, label.as_deref()).trim_end());
        Ok(())
    }
}

/// The `[[key]]` table that makes `key` known; holds no secret.
pub(super) fn table(key: &ApiKey, tenant: &str, label: Option<&str>) -> String {
    let text = |text: &str| toml::Value::String(text.to_owned());
    let mut lines = vec![
        "[[key]]".to_owned(),
        format!("id = {}", text(key.id.as_str())),
        format!("tenant = {}", text(tenant)),
        format!("hash = {}", text(&key.hash.to_string())),
    ];
    lines.extend(label.map(|label| format!("label = {}", text(label))));
    lines.push(String::new());
    lines.join("\n")
}

/// Ids are short words; whether there is such a tenant is for `orbit policy check` to say.
fn tenant_id(text: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if (1..=64).contains(&text.len()) && text.chars().all(fits) {
        Ok(text.to_owned())
    } else {
        Err("a tenant id is 1 to 64 letters, digits, `-`, `_` or `.`".to_owned())
    }
}
