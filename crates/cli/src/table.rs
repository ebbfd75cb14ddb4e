//! Tables as Docker prints them, and the other forms that `--format` asks for.

use clap::Args;
use serde_json::{Map, Value};

use crate::exit::{Failure, Outcome};
use crate::printer;
use crate::template::Template;

/// `--format` of verbs that list.
#[derive(Args, Debug, Default)]
pub(crate) struct FormatArgs {
    /// table, json, a Go template, or table and a Go template: 'table {{.ID}}\t{{.Names}}'
    #[arg(long, value_name = "FORMAT")]
    pub(crate) format: Option<String>,
}

/// The fields of a list by Docker's names, with the heads of their columns.
pub(crate) type Columns = [(&'static str, &'static str)];

/// One line of a list.
#[derive(Debug, Default)]
pub(crate) struct Row(Map<String, Value>);

impl Row {
    /// Values in the order of `columns`; fields beyond that have none.
    pub(crate) fn new(columns: &Columns, values: impl IntoIterator<Item = String>) -> Self {
        let values = values.into_iter().map(Value::from).chain(std::iter::repeat(Value::from("")));
        Self(columns.iter().map(|(field, _)| (*field).to_owned()).zip(values).collect())
    }
}

/// Prints rows in the form asked for; as a table, the first `shown` columns.
pub(crate) fn print(format: &FormatArgs, columns: &Columns, shown: usize, rows: Vec<Row>) -> Outcome<()> {
    let text = |row: &Row, field: &str| {
        row.0
            .get(field)
            .map_or_else(String::new, |value| value.as_str().map_or_else(|| value.to_string(), str::to_owned))
    };
    match format.format.as_deref() {
        None | Some("" | "table") => {
            let columns = columns.get(..shown).unwrap_or(columns);
            let heads: Vec<&str> = columns.iter().map(|(_, head)| *head).collect();
            let cells: Vec<Vec<String>> =
                rows.iter().map(|row| columns.iter().map(|(field, _)| text(row, field)).collect()).collect();
            print_cells(&heads, &cells);
        }
        Some("json") => {
            for row in rows {
                printer::line(Value::from(row.0));
            }
        }
        Some(format) => match format.strip_prefix("table ") {
            None => {
                let template = parse(format)?;
                for row in rows {
                    printer::line(fill(&template, &Value::from(row.0))?);
                }
            }
            Some(format) => {
                let template = parse(format)?;
                let heads: Map<String, Value> =
                    columns.iter().map(|(field, head)| ((*field).to_owned(), Value::from(*head))).collect();
                let heads = fill(&template, &Value::from(heads))?;
                let heads: Vec<&str> = heads.split('\t').collect();
                let cells = rows.into_iter().map(|row| {
                    Ok(fill(&template, &Value::from(row.0))?.split('\t').map(str::to_owned).collect())
                });
                print_cells(&heads, &cells.collect::<Outcome<Vec<Vec<String>>>>()?);
            }
        },
    }
    Ok(())
}

/// Prints what an `inspect` found: as indented JSON, as JSON in a line, or each through a template.
pub(crate) fn print_found(format: Option<&str>, found: Vec<Value>) -> Outcome<()> {
    match format {
        None | Some("") => printer::line(serde_json::to_string_pretty(&found).unwrap_or_default()),
        Some("json") => printer::line(Value::from(found)),
        Some(format) => found.iter().try_for_each(|value| print_value(format, value))?,
    }
    Ok(())
}

/// Prints one value: as JSON, or through a template.
pub(crate) fn print_value(format: &str, value: &Value) -> Outcome<()> {
    if format == "json" {
        printer::line(value);
        return Ok(());
    }
    printer::line(fill(&parse(format)?, value)?);
    Ok(())
}

/// A template of the command line, where a backslash and `t` or `n` stand for what they do in Go.
fn parse(format: &str) -> Outcome<Template> {
    let text = format.replace("\\t", "\t").replace("\\n", "\n");
    Template::parse(&text).map_err(|error| Failure::new(format!("template parsing error: {error}")))
}

fn fill(template: &Template, value: &Value) -> Outcome<String> {
    template.render(value).map_err(|error| Failure::new(format!("template parsing error: {error}")))
}

/// Columns as wide as their widest cell and three blanks, or ten (Docker's tabwriter).
pub(crate) fn print_cells(heads: &[&str], rows: &[Vec<String>]) {
    let mut widths: Vec<usize> = heads.iter().map(|head| head.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let show = |cells: &[&str]| {
        let mut text = String::new();
        for (at, (cell, width)) in cells.iter().zip(&widths).enumerate() {
            text.push_str(cell);
            if at + 1 < cells.len() {
                let width = (width + 3).max(10);
                text.push_str(&" ".repeat(width - cell.chars().count()));
            }
        }
        printer::line(text.trim_end());
    };
    show(heads);
    for row in rows {
        show(&row.iter().map(String::as_str).collect::<Vec<_>>());
    }
}

/// At most `length` characters, the last an ellipsis where some were cut.
pub(crate) fn cut(text: &str, length: usize) -> String {
    if text.chars().count() <= length {
        return text.to_owned();
    }
    text.chars().take(length - 1).chain(['…']).collect()
}
