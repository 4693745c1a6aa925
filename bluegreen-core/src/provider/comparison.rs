//! What comparing both databases finds: how far it is, what was alike, and which rows are not.

use super::Progress;
use crate::model::Color;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// How much of a value is shown: a difference is to be found by it, not read from it.
const SHOWN: usize = 60;

/// Where a comparison is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Comparison {
    /// Under way.
    Running {
        /// Rows of the writer's side.
        rows: Progress,
        /// Bytes of the writer's side, about.
        bytes: Progress,
        /// How long the rest will take, about; none before that can be told.
        left: Option<Duration>,
    },
    /// Everything that was compared is alike.
    Same(Compared),
    /// Rows differ. That is certain: what a mirror had not brought yet was looked at again.
    Different {
        /// What was compared.
        compared: Compared,
        /// Some of the rows that differ.
        differences: Vec<Difference>,
        /// How many more there are, at least.
        more: u64,
    },
}

/// How much was compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Compared {
    /// Tables.
    pub tables: u64,
    /// Rows of the writer's side.
    pub rows: u64,
    /// Bytes of the writer's side, about.
    pub bytes: u64,
}

/// A row that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// The table, with its schema.
    pub table: String,
    /// The row, by its key: `id=5`.
    pub row: String,
    /// How.
    pub differs: Differs,
}

/// How a row differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Differs {
    /// Only this side has it.
    OnlyAt(Color),
    /// Both have it, with other values in these columns.
    Columns(Vec<ColumnDifference>),
    /// It has no key to be known by, and one side has it more often.
    Times {
        /// How often it is at blue.
        blue: u64,
        /// How often it is at green.
        green: u64,
        /// The row, by the beginning of its values.
        values: Vec<(String, Option<String>)>,
    },
}

/// A column that differs, with the beginning of both values.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ColumnDifference {
    /// The column.
    pub column: String,
    /// Blue's value; none is NULL.
    pub blue: Option<String>,
    /// Green's value; none is NULL.
    pub green: Option<String>,
}

impl ColumnDifference {
    /// Of two values, each cut to what is shown: where they begin alike, from a little before the place where they part.
    pub fn new(column: impl Into<String>, blue: Option<String>, green: Option<String>) -> Self {
        let alike = match (&blue, &green) {
            (Some(blue), Some(green)) => blue.chars().zip(green.chars()).take_while(|(b, g)| b == g).count(),
            _ => 0,
        };
        let from = if alike > SHOWN / 2 { alike - 10 } else { 0 };
        let cut = |value: String| cut(&value, from);
        Self {
            column: column.into(),
            blue: blue.map(cut),
            green: green.map(cut),
        }
    }
}

/// The beginning of a value, from a place in it on.
fn cut(value: &str, from: usize) -> String {
    let rest = value.chars().skip(from);
    let shown: String = rest.clone().take(SHOWN).collect();
    let before = if from > 0 { ".." } else { "" };
    let after = if rest.count() > SHOWN { ".." } else { "" };
    format!("{before}{shown}{after}")
}

impl Differs {
    /// A row without a key, with its values as they are: they are cut to what is shown.
    pub fn times(blue: u64, green: u64, values: impl IntoIterator<Item = (String, Option<String>)>) -> Self {
        let shown = values
            .into_iter()
            .map(|(column, value)| (column, value.map(|v| cut(&v, 0))));
        Self::Times {
            blue,
            green,
            values: shown.collect(),
        }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: ", self.table, self.row)?;
        let value = |v: &Option<String>| v.as_ref().map_or_else(|| "NULL".to_owned(), |v| format!("{v:?}"));
        let columns = match &self.differs {
            Differs::OnlyAt(color) => return write!(f, "only at {color}"),
            Differs::Times { blue, green, values } => {
                let named: Vec<String> = values.iter().map(|(c, v)| format!("{c}={}", value(v))).collect();
                return write!(f, "{blue} times at blue, {green} times at green ({})", named.join(", "));
            }
            Differs::Columns(columns) if columns.is_empty() => return f.write_str("differs in what does not print"),
            Differs::Columns(columns) => columns,
        };
        for (i, column) in columns.iter().enumerate() {
            let comma = if i > 0 { "; " } else { "" };
            write!(
                f,
                "{comma}{} is {} at blue, {} at green",
                column.column,
                value(&column.blue),
                value(&column.green)
            )?;
        }
        Ok(())
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Running { rows, left, .. } => {
                write!(f, "comparing: {} of {} rows", rows.done, rows.total)?;
                match left {
                    Some(left) => write!(f, ", about {} s to go", left.as_secs() + 1),
                    None => Ok(()),
                }
            }
            Self::Same(Compared { tables, rows, .. }) => write!(f, "alike: {rows} rows of {tables} tables"),
            Self::Different { differences, more, .. } => {
                let all = differences.len() as u64 + more;
                write!(
                    f,
                    "{all} row{} differ{}",
                    if all == 1 { "" } else { "s" },
                    if all == 1 { "s" } else { "" }
                )?;
                for difference in differences {
                    write!(f, "\n    {difference}")?;
                }
                if *more > 0 {
                    write!(f, "\n    and {more} more, at least")?;
                }
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_cut_around_the_place_where_they_part() {
        let long = "a".repeat(500);
        let cut = ColumnDifference::new("c", Some(format!("{long}x{long}")), Some(format!("{long}y{long}")));
        let (blue, green) = (cut.blue.expect("there"), cut.green.expect("there"));
        assert!(
            blue.starts_with("..") && blue.contains('x') && blue.ends_with("..") && blue.len() < 80,
            "{blue}"
        );
        assert_ne!(blue, green);
        let short = ColumnDifference::new("c", Some("1".into()), None);
        let difference = Difference {
            table: "\"public\".\"t\"".into(),
            row: "id=5".into(),
            differs: Differs::Columns(vec![short]),
        };
        assert_eq!(
            difference.to_string(),
            "\"public\".\"t\" id=5: c is \"1\" at blue, NULL at green"
        );
        let gone = Difference {
            differs: Differs::OnlyAt(Color::Green),
            ..difference
        };
        assert!(gone.to_string().ends_with("only at green"));
    }
}
