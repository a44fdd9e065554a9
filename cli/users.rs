//! `users`: people and service accounts.

use crate::client::Client;
use crate::credentials::ask_secret;
use crate::exit::Failure;
use crate::list::text;
use crate::output::{List, Output};
use crate::{out, table};
use serde_json::{Value, json};

/// What to do.
#[derive(Debug, clap::Subcommand)]
pub enum Args {
    /// List the users
    #[command(visible_alias = "ls")]
    List(Output),
    /// Create a user; the password is asked for, or read from stdin
    Create {
        /// Its name
        name: String,
        /// A role it has; several are given one by one. `user` when none is named
        #[arg(long, value_name = "ROLE")]
        role: Vec<String>,
        /// A program: it gets keys and no password
        #[arg(long)]
        service: bool,
    },
    /// Give a user other roles
    Roles {
        /// The user
        name: String,
        /// All of its roles
        #[arg(required = true, value_name = "ROLE")]
        roles: Vec<String>,
    },
    /// Give a user another password, and end its logins
    Password {
        /// The user
        name: String,
    },
    /// Let a user do nothing any more
    Disable {
        /// The user
        name: String,
    },
    /// Let a disabled user do things again
    Enable {
        /// The user
        name: String,
    },
    /// End all logins of a user
    Logout {
        /// The user
        name: String,
    },
    /// Remove a user with its keys and logins
    Rm {
        /// The user
        name: String,
    },
}

/// Does it.
pub async fn run(client: &Client, args: &Args) -> Result<(), Failure> {
    let path = |name: &str| format!("/admin/v1/users/{name}");
    match args {
        Args::List(output) => {
            let answer = client.get("/admin/v1/users").await?;
            output.print(&answer, List { items: "users", name: "name" }, |answer, _| list(answer));
        }
        Args::Create { name, role, service } => {
            let mut body = json!({"name": name, "service": service});
            if !role.is_empty() {
                body["roles"] = json!(role);
            }
            if !service {
                body["password"] = ask_secret("Password: ")?.as_str().into();
            }
            let user = client.post("/admin/v1/users", &body).await?;
            out::line(&format!("{name}: {}", roles(&user)));
        }
        Args::Roles { name, roles: asked } => {
            let user = client.patch(&path(name), &json!({"roles": asked})).await?;
            out::line(&format!("{name}: {}", roles(&user)));
        }
        Args::Password { name } => {
            let me = client.get("/auth/whoami").await?;
            let is_own = me["user"] == json!(name) && me["via"] == "access-token";
            let mut body = json!({});
            if is_own {
                body["current"] = ask_secret("Current password: ")?.as_str().into();
            }
            body["password"] = ask_secret("New password: ")?.as_str().into();
            client.put(&format!("{}/password", path(name)), &body).await?;
            out::line(&format!("{name} has another password; its logins are ended"));
        }
        Args::Disable { name } => {
            client.patch(&path(name), &json!({"disabled": true})).await?;
            out::line(&format!("{name} can do nothing any more"));
        }
        Args::Enable { name } => {
            client.patch(&path(name), &json!({"disabled": false})).await?;
            out::line(&format!("{name} can do things again"));
        }
        Args::Logout { name } => {
            client.post(&format!("{}/logout", path(name)), &json!({})).await?;
            out::line(&format!("the logins of {name} are ended"));
        }
        Args::Rm { name } => {
            client.delete(&path(name), None).await?;
            out::line(&format!("removed {name}"));
        }
    }
    Ok(())
}

fn roles(user: &Value) -> String {
    let roles = user["roles"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let roles: Vec<&str> = roles.collect();
    if roles.is_empty() { "no roles".to_owned() } else { roles.join(",") }
}

fn list(answer: &Value) -> String {
    let row = |user: &Value| {
        let status = match () {
            () if user["disabled"] == true => "disabled",
            () if user["service"] == true => "service",
            () if user["has_password"] == true => "password",
            () => "keys only",
        };
        let count = |field: &str| user[field].as_u64().unwrap_or(0).to_string();
        vec![text(user, "name"), roles(user), status.to_owned(), count("sessions"), count("keys")]
    };
    let rows: Vec<_> = answer["users"].as_array().into_iter().flatten().map(row).collect();
    table::render(&["USER", "ROLES", "STATUS", "LOGINS", "KEYS"], &rows)
}
