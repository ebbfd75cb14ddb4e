//! From nodes and a value to text.

use std::cmp::Ordering;

use serde_json::Value;

use super::{Branch, Node, Operand, Pipeline};

type Outcome<T> = Result<T, String>;

pub(super) fn render(nodes: &[Node], value: &Value) -> Outcome<String> {
    let mut scope = Scope { root: value, variables: Vec::new(), out: String::new() };
    scope.list(nodes, value)?;
    Ok(scope.out)
}

struct Scope<'a> {
    root: &'a Value,
    /// The innermost last.
    variables: Vec<(String, Value)>,
    out: String,
}

impl Scope<'_> {
    fn list(&mut self, nodes: &[Node], dot: &Value) -> Outcome<()> {
        let depth = self.variables.len();
        for node in nodes {
            match node {
                Node::Text(text) => self.out.push_str(text),
                Node::Action(pipeline) => {
                    let value = self.pipeline(pipeline, dot)?;
                    if pipeline.variables.is_empty() {
                        self.out.push_str(&shown(&value));
                    }
                }
                Node::If(branch) => {
                    let (value, before) = self.condition(branch, dot)?;
                    self.list(if is_true(&value) { &branch.body } else { &branch.otherwise }, dot)?;
                    self.variables.truncate(before);
                }
                Node::With(branch) => {
                    let (value, before) = self.condition(branch, dot)?;
                    if is_true(&value) {
                        self.list(&branch.body, &value)?;
                    } else {
                        self.list(&branch.otherwise, dot)?;
                    }
                    self.variables.truncate(before);
                }
                Node::Range(branch) => self.range(branch, dot)?,
            }
        }
        self.variables.truncate(depth);
        Ok(())
    }

    fn condition(&mut self, branch: &Branch, dot: &Value) -> Outcome<(Value, usize)> {
        let before = self.variables.len();
        Ok((self.pipeline(&branch.pipeline, dot)?, before))
    }

    fn range(&mut self, branch: &Branch, dot: &Value) -> Outcome<()> {
        let value = self.commands(&branch.pipeline, dot)?;
        let items: Vec<(Value, Value)> = match value {
            Value::Array(items) => items.into_iter().enumerate().map(|(at, v)| (at.into(), v)).collect(),
            Value::Object(map) => map.into_iter().map(|(key, v)| (key.into(), v)).collect(),
            Value::Null => Vec::new(),
            other => return Err(format!("range can't iterate over {}", shown(&other))),
        };
        if items.is_empty() {
            return self.list(&branch.otherwise, dot);
        }
        for (key, item) in items {
            let before = self.variables.len();
            match branch.pipeline.variables.as_slice() {
                [] => {}
                [value] => self.variables.push((value.clone(), item.clone())),
                [index, value, ..] => {
                    self.variables.push((index.clone(), key));
                    self.variables.push((value.clone(), item.clone()));
                }
            }
            self.list(&branch.body, &item)?;
            self.variables.truncate(before);
        }
        Ok(())
    }

    fn pipeline(&mut self, pipeline: &Pipeline, dot: &Value) -> Outcome<Value> {
        let value = self.commands(pipeline, dot)?;
        for name in &pipeline.variables {
            let known = self.variables.iter_mut().rev().find(|(known, _)| known == name);
            match known {
                Some((_, slot)) if !pipeline.is_declared => *slot = value.clone(),
                None if !pipeline.is_declared => return Err(format!("undefined variable \"${name}\"")),
                _ => self.variables.push((name.clone(), value.clone())),
            }
        }
        Ok(value)
    }

    fn commands(&mut self, pipeline: &Pipeline, dot: &Value) -> Outcome<Value> {
        let mut piped: Option<Value> = None;
        for command in &pipeline.commands {
            piped = Some(self.command(command, dot, piped.as_ref())?);
        }
        Ok(piped.unwrap_or_default())
    }

    fn command(&mut self, command: &[Operand], dot: &Value, piped: Option<&Value>) -> Outcome<Value> {
        let [first, rest @ ..] = command else { return Ok(Value::Null) };
        let arguments = |scope: &mut Self| {
            let own = rest.iter().map(|operand| scope.operand(operand, dot)).collect::<Outcome<Vec<_>>>();
            own.map(|mut own| {
                own.extend(piped.cloned());
                own
            })
        };
        match first {
            Operand::Function(name) => {
                let arguments = arguments(self)?;
                call(name, &arguments)
            }
            // The one method that Docker's rows have: {{.Label "name"}}.
            Operand::Field(chain) if chain.last().is_some_and(|name| name == "Label") && !rest.is_empty() => {
                let key = arguments(self)?.first().map(shown).unwrap_or_default();
                let labels = dot.get("Labels").map(shown).unwrap_or_default();
                let found =
                    labels.split(',').find_map(|pair| pair.split_once('=').filter(|(name, _)| *name == key));
                Ok(found.map_or("", |(_, value)| value).into())
            }
            other if rest.is_empty() && piped.is_none() => self.operand(other, dot),
            _ => Err("can't give arguments to a value that is no function".into()),
        }
    }

    fn operand(&mut self, operand: &Operand, dot: &Value) -> Outcome<Value> {
        match operand {
            Operand::Field(chain) => follow(dot, chain),
            Operand::Variable(name, chain) if name.is_empty() => follow(self.root, chain),
            Operand::Variable(name, chain) => {
                let found = self.variables.iter().rev().find(|(known, _)| known == name);
                let (_, value) = found.ok_or_else(|| format!("undefined variable \"${name}\""))?;
                follow(value, chain)
            }
            Operand::Literal(value) => Ok(value.clone()),
            Operand::Function(name) => call(name, &[]),
            Operand::Group(pipeline, chain) => {
                let value = self.commands(pipeline, dot)?;
                follow(&value, chain)
            }
        }
    }
}

fn follow(value: &Value, chain: &[String]) -> Outcome<Value> {
    let mut at = value;
    for name in chain {
        at = match at {
            Value::Object(map) => map.get(name).ok_or_else(|| {
                let known: Vec<&str> = map.keys().map(String::as_str).collect();
                format!("no field {name:?}; there are {}", known.join(", "))
            })?,
            Value::Null => return Err(format!("nil has no field {name:?}")),
            Value::String(_) => return Err(format!("can't evaluate field {name} in a string")),
            _ => return Err(format!("can't evaluate field {name} in {}", shown(at))),
        };
    }
    Ok(at.clone())
}

fn is_true(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(is) => *is,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(map) => !map.is_empty(),
    }
}

/// As Go's `%v`.
fn shown(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".into(),
        Value::String(text) => text.clone(),
        Value::Array(items) => format!("[{}]", items.iter().map(shown).collect::<Vec<_>>().join(" ")),
        Value::Object(map) => {
            let pairs: Vec<String> =
                map.iter().map(|(key, value)| format!("{key}:{}", shown(value))).collect();
            format!("map[{}]", pairs.join(" "))
        }
        plain => plain.to_string(),
    }
}

fn call(name: &str, arguments: &[Value]) -> Outcome<Value> {
    let few = || format!("wrong number of arguments for {name}");
    let first = || arguments.first().ok_or_else(few);
    let text = |at: usize| arguments.get(at).map(shown).ok_or_else(few);
    let number = |at: usize| {
        let given = arguments.get(at).and_then(Value::as_i64).ok_or_else(few)?;
        usize::try_from(given).map_err(|_| format!("index out of range: {given}"))
    };
    Ok(match name {
        "json" => serde_json::to_string(first()?).map_err(|error| error.to_string())?.into(),
        "lower" => text(0)?.to_lowercase().into(),
        "upper" => text(0)?.to_uppercase().into(),
        "title" => {
            let text = text(0)?;
            let mut chars = text.chars();
            chars.next().map_or_else(String::new, |c| c.to_uppercase().chain(chars).collect()).into()
        }
        "split" => text(0)?.split(&text(1)?).map(str::to_owned).collect::<Vec<_>>().into(),
        "join" => {
            let items = first()?.as_array().map(|items| items.iter().map(shown).collect::<Vec<_>>());
            items.ok_or("join needs a list")?.join(&text(1)?).into()
        }
        "pad" => {
            let inner = text(0)?;
            if inner.is_empty() {
                inner.into()
            } else {
                format!("{}{inner}{}", " ".repeat(number(1)?.min(999)), " ".repeat(number(2)?.min(999)))
                    .into()
            }
        }
        "truncate" => text(0)?.chars().take(number(1)?).collect::<String>().into(),
        "len" => match first()? {
            Value::String(text) => text.len().into(),
            Value::Array(items) => items.len().into(),
            Value::Object(map) => map.len().into(),
            other => return Err(format!("len of {}", shown(other))),
        },
        "index" => index(first()?, arguments.get(1..).unwrap_or_default())?,
        "slice" => slice(arguments)?,
        "print" => arguments.iter().map(shown).collect::<String>().into(),
        "println" => format!("{}\n", arguments.iter().map(shown).collect::<Vec<_>>().join(" ")).into(),
        "printf" => printf(&text(0)?, arguments.get(1..).unwrap_or_default()).into(),
        "not" => (!is_true(first()?)).into(),
        "and" => arguments.iter().find(|value| !is_true(value)).or(arguments.last()).ok_or_else(few)?.clone(),
        "or" => arguments.iter().find(|value| is_true(value)).or(arguments.last()).ok_or_else(few)?.clone(),
        "eq" => {
            let [one, others @ ..] = arguments else { return Err(few()) };
            let mut is_equal = false;
            for other in others {
                is_equal |= compare(one, other)? == Ordering::Equal;
            }
            is_equal.into()
        }
        "ne" | "lt" | "le" | "gt" | "ge" => {
            let [one, other] = arguments else { return Err(few()) };
            let order = compare(one, other)?;
            match name {
                "ne" => order.is_ne(),
                "lt" => order.is_lt(),
                "le" => order.is_le(),
                "gt" => order.is_gt(),
                _ => order.is_ge(),
            }
            .into()
        }
        _ => return Err(format!("function {name:?} is not defined")),
    })
}

fn compare(one: &Value, other: &Value) -> Outcome<Ordering> {
    let order = match (one, other) {
        (Value::Number(a), Value::Number(b)) => match (a.as_i64(), b.as_i64()) {
            (Some(a), Some(b)) => Some(a.cmp(&b)),
            _ => a.as_f64().zip(b.as_f64()).and_then(|(a, b)| a.partial_cmp(&b)),
        },
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        (Value::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
        (Value::Null, Value::Null) => Some(Ordering::Equal),
        (Value::Null, _) => Some(Ordering::Less),
        (_, Value::Null) => Some(Ordering::Greater),
        _ => None,
    };
    order.ok_or_else(|| format!("incompatible types for comparison: {} and {}", shown(one), shown(other)))
}

fn index(value: &Value, keys: &[Value]) -> Outcome<Value> {
    let mut at = value.clone();
    for key in keys {
        at = match (&at, key) {
            // A missing key is the zero value, which for Docker's maps of strings is empty.
            (Value::Object(map), key) => map.get(&shown(key)).cloned().unwrap_or_else(|| "".into()),
            (Value::Array(items), Value::Number(number)) => number
                .as_u64()
                .and_then(|at| usize::try_from(at).ok())
                .and_then(|at| items.get(at).cloned())
                .ok_or_else(|| format!("index out of range: {number}"))?,
            (Value::Null, _) => return Err("index of nil".into()),
            (other, _) => return Err(format!("can't index {}", shown(other))),
        };
    }
    Ok(at)
}

fn slice(arguments: &[Value]) -> Outcome<Value> {
    let [value, bounds @ ..] = arguments else { return Err("slice needs a value".into()) };
    let length = match value {
        Value::String(text) => text.len(),
        Value::Array(items) => items.len(),
        other => return Err(format!("can't slice {}", shown(other))),
    };
    let bound = |at: usize, or: usize| match bounds.get(at) {
        None => Ok(or),
        Some(given) => given
            .as_u64()
            .and_then(|n| usize::try_from(n).ok())
            .filter(|n| *n <= length)
            .ok_or_else(|| format!("index out of range: {}", shown(given))),
    };
    let (from, to) = (bound(0, 0)?, bound(1, length)?);
    match value {
        Value::String(text) => {
            text.get(from..to).map(Value::from).ok_or_else(|| format!("index out of range: {to}"))
        }
        Value::Array(items) => {
            items.get(from..to).map(Value::from).ok_or_else(|| format!("index out of range: {to}"))
        }
        _ => Ok(Value::Null),
    }
}

/// Go's verbs `%s %v %d %q %t %f %x %%` with `-`, `0`, width and precision.
fn printf(format: &str, arguments: &[Value]) -> String {
    let mut out = String::new();
    let mut arguments = arguments.iter();
    let mut chars = format.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut flags = String::new();
        while let Some(flag) = chars.next_if(|c| "-0+ #".contains(*c)) {
            flags.push(flag);
        }
        let digits = |chars: &mut std::iter::Peekable<std::str::Chars<'_>>| {
            let mut number = None;
            while let Some(digit) = chars.next_if(char::is_ascii_digit) {
                let digit = digit.to_digit(10).and_then(|d| usize::try_from(d).ok()).unwrap_or(0);
                number = Some((number.unwrap_or(0_usize) * 10 + digit).min(999));
            }
            number
        };
        let width = digits(&mut chars);
        let precision =
            if chars.next_if_eq(&'.').is_some() { Some(digits(&mut chars).unwrap_or(0)) } else { None };
        let Some(verb) = chars.next() else {
            out.push_str("%!(NOVERB)");
            break;
        };
        if verb == '%' {
            out.push('%');
            continue;
        }
        let Some(value) = arguments.next() else {
            out.push_str(&format!("%!{verb}(MISSING)"));
            continue;
        };
        let text = verb_text(verb, value, precision);
        let missing = width.unwrap_or(0).saturating_sub(text.chars().count());
        if flags.contains('-') {
            out.push_str(&text);
            out.push_str(&" ".repeat(missing));
        } else {
            let fill = if flags.contains('0') && value.is_number() { "0" } else { " " };
            out.push_str(&fill.repeat(missing));
            out.push_str(&text);
        }
    }
    out
}

fn verb_text(verb: char, value: &Value, precision: Option<usize>) -> String {
    match verb {
        's' | 'v' => match precision {
            Some(length) if value.is_string() => shown(value).chars().take(length).collect(),
            _ => shown(value),
        },
        'd' if value.is_i64() || value.is_u64() => shown(value),
        'x' if value.is_u64() => format!("{:x}", value.as_u64().unwrap_or(0)),
        't' if value.is_boolean() => shown(value),
        'q' => format!("{:?}", shown(value)),
        'f' if value.is_number() => format!("{:.*}", precision.unwrap_or(6), value.as_f64().unwrap_or(0.0)),
        other => format!("%!{other}({})", shown(value)),
    }
}
