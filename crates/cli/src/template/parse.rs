//! From text to nodes.

use serde_json::Value;

use super::{Branch, Node, Operand, Pipeline};

/// How deep blocks and parentheses may be nested.
const MAX_DEPTH: usize = 64;

pub(super) fn parse(text: &str) -> Result<Vec<Node>, String> {
    let pieces = split(text)?;
    let mut parser = Parser { pieces: &pieces, at: 0 };
    let (nodes, end) = parser.list(0)?;
    match end {
        Stop::Text => Ok(nodes),
        Stop::Close => Err("unexpected {{end}}".into()),
        Stop::Else(_) => Err("unexpected {{else}}".into()),
    }
}

/// Text, or what is between the braces.
enum Piece<'a> {
    Text(&'a str),
    Action(&'a str),
}

fn split(text: &str) -> Result<Vec<Piece<'_>>, String> {
    let mut pieces = Vec::new();
    let mut rest = text;
    let mut trims_next = false;
    while let Some((before, after)) = rest.split_once("{{") {
        let (action, remaining, trims_before) = match after.strip_prefix("- ").or(after.strip_prefix("-\n")) {
            Some(inner) => close(inner).map(|(action, rest)| (action, rest, true))?,
            None => close(after).map(|(action, rest)| (action, rest, false))?,
        };
        let before = if trims_next { before.trim_start() } else { before };
        pieces.push(Piece::Text(if trims_before { before.trim_end() } else { before }));
        let trimmed =
            action.strip_suffix('-').filter(|left| left.ends_with([' ', '\n', '/']) || left.is_empty());
        trims_next = trimmed.is_some();
        pieces.push(Piece::Action(trimmed.unwrap_or(action).trim()));
        rest = remaining;
    }
    pieces.push(Piece::Text(if trims_next { rest.trim_start() } else { rest }));
    Ok(pieces)
}

/// The action up to its closing braces, which don't count inside quotes and comments.
fn close(text: &str) -> Result<(&str, &str), String> {
    if let Some(comment) = text.trim_start().strip_prefix("/*") {
        let (_, rest) = comment.split_once("*/").ok_or("unclosed comment")?;
        let (_, after) = rest.split_once("}}").ok_or("unclosed action")?;
        let end = text.len() - after.len() - 2;
        return Ok((text.get(..end).unwrap_or_default(), after));
    }
    let mut quote = None;
    let mut is_escaped = false;
    for (at, c) in text.char_indices() {
        match quote {
            Some(_) if is_escaped => is_escaped = false,
            Some('"') if c == '\\' => is_escaped = true,
            Some(open) if c == open => quote = None,
            Some(_) => {}
            None if c == '"' || c == '`' => quote = Some(c),
            None if text.get(at..).is_some_and(|rest| rest.starts_with("}}")) => {
                return Ok((text.get(..at).unwrap_or_default(), text.get(at + 2..).unwrap_or_default()));
            }
            None => {}
        }
    }
    Err(if quote.is_some() { "unterminated string".into() } else { "unclosed action".into() })
}

/// What ended a list of nodes.
enum Stop<'a> {
    Text,
    /// `{{end}}`
    Close,
    /// With the condition of `{{else if …}}`.
    Else(&'a str),
}

struct Parser<'a> {
    pieces: &'a [Piece<'a>],
    at: usize,
}

impl<'a> Parser<'a> {
    fn list(&mut self, depth: usize) -> Result<(Vec<Node>, Stop<'a>), String> {
        if depth > MAX_DEPTH {
            return Err("blocks are nested too deep".into());
        }
        let mut nodes = Vec::new();
        while let Some(piece) = self.pieces.get(self.at) {
            self.at += 1;
            let action = match piece {
                Piece::Text(text) => {
                    if !text.is_empty() {
                        nodes.push(Node::Text((*text).to_owned()));
                    }
                    continue;
                }
                Piece::Action(action) => *action,
            };
            if action.starts_with("/*") {
                continue;
            }
            let (word, rest) = action.split_once([' ', '(']).map_or((action, ""), |(word, _)| {
                (word, action.get(word.len()..).unwrap_or_default().trim_start())
            });
            match word {
                "end" => return Ok((nodes, Stop::Close)),
                "else" => return Ok((nodes, Stop::Else(rest))),
                "if" => nodes.push(Node::If(self.branch(rest, depth)?)),
                "with" => nodes.push(Node::With(self.branch(rest, depth)?)),
                "range" => nodes.push(Node::Range(self.branch(rest, depth)?)),
                "template" | "define" | "block" | "break" | "continue" => {
                    return Err(format!("{{{{{word}}}}} is not supported"));
                }
                _ => nodes.push(Node::Action(pipeline(action)?)),
            }
        }
        Ok((nodes, Stop::Text))
    }

    fn branch(&mut self, condition: &str, depth: usize) -> Result<Branch, String> {
        let pipeline = pipeline(condition)?;
        let (body, end) = self.list(depth + 1)?;
        let otherwise = match end {
            Stop::Text => return Err("unexpected end: {{end}} is missing".into()),
            Stop::Close => Vec::new(),
            Stop::Else("") => {
                let (otherwise, end) = self.list(depth + 1)?;
                match end {
                    Stop::Close => otherwise,
                    Stop::Else(_) => return Err("unexpected {{else}}".into()),
                    Stop::Text => return Err("unexpected end: {{end}} is missing".into()),
                }
            }
            Stop::Else(rest) => match rest.strip_prefix("if") {
                Some(condition) => vec![Node::If(self.branch(condition.trim_start(), depth + 1)?)],
                None => return Err(format!("{{{{else {rest}}}}} is malformed")),
            },
        };
        Ok(Branch { pipeline, body, otherwise })
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Operand(Operand),
    /// A name chained to what stands right before it.
    Chain(Vec<String>),
    Pipe,
    Open,
    Close,
    Comma,
    Declare,
    Assign,
}

fn pipeline(text: &str) -> Result<Pipeline, String> {
    let tokens = tokens(text)?;
    let mut at = 0;
    let pipeline = parse_pipeline(&tokens, &mut at, 0)?;
    if at == tokens.len() { Ok(pipeline) } else { Err(format!("unexpected end of {text:?}")) }
}

fn parse_pipeline(tokens: &[Token], at: &mut usize, depth: usize) -> Result<Pipeline, String> {
    if depth > MAX_DEPTH {
        return Err("parentheses are nested too deep".into());
    }
    let mut variables = Vec::new();
    let mut is_declared = false;
    let begins_with = |tokens: &[Token]| {
        let position = tokens.iter().position(|token| matches!(token, Token::Declare | Token::Assign));
        position.filter(|position| *position <= 3)
    };
    if depth == 0
        && let Some(position) = begins_with(tokens)
    {
        for token in tokens.iter().take(position) {
            match token {
                Token::Operand(Operand::Variable(name, chain)) if chain.is_empty() => {
                    variables.push(name.clone());
                }
                Token::Comma => {}
                _ => return Err("only variables can be assigned".into()),
            }
        }
        is_declared = tokens.get(position) == Some(&Token::Declare);
        *at = position + 1;
    }
    let mut commands = vec![Vec::new()];
    while let Some(token) = tokens.get(*at) {
        *at += 1;
        let last = commands.last_mut().ok_or("empty command")?;
        match token {
            Token::Pipe => commands.push(Vec::new()),
            Token::Open => {
                let inner = parse_pipeline(tokens, at, depth + 1)?;
                if tokens.get(*at) != Some(&Token::Close) {
                    return Err("unclosed parenthesis".into());
                }
                *at += 1;
                let chain = match tokens.get(*at) {
                    Some(Token::Chain(chain)) => {
                        *at += 1;
                        chain.clone()
                    }
                    _ => Vec::new(),
                };
                last.push(Operand::Group(Box::new(inner), chain));
            }
            Token::Close if depth > 0 => {
                *at -= 1;
                break;
            }
            Token::Operand(operand) => last.push(operand.clone()),
            Token::Close | Token::Chain(_) | Token::Comma | Token::Declare | Token::Assign => {
                return Err("unexpected token".into());
            }
        }
    }
    if commands.iter().any(Vec::is_empty) {
        return Err("missing value for command".into());
    }
    Ok(Pipeline { variables, is_declared, commands })
}

fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let is_chained =
            matches!(tokens.last(), Some(Token::Close)) && rest.len() < text.len() && first == '.';
        let (token, length) = match first {
            '|' => (Token::Pipe, 1),
            '(' => (Token::Open, 1),
            ')' => (Token::Close, 1),
            ',' => (Token::Comma, 1),
            '=' => (Token::Assign, 1),
            ':' if rest.starts_with(":=") => (Token::Declare, 2),
            '"' => string(rest)?,
            '`' => {
                let inner = rest.get(1..).unwrap_or_default();
                let (raw, _) = inner.split_once('`').ok_or("unterminated string")?;
                (Token::Operand(Operand::Literal(raw.into())), raw.len() + 2)
            }
            '.' => {
                let (chain, length) = chain(rest);
                let token =
                    if is_chained { Token::Chain(chain) } else { Token::Operand(Operand::Field(chain)) };
                (token, length)
            }
            '$' => {
                let name: String = rest.chars().skip(1).take_while(|c| is_word(*c)).collect();
                let (chain, length) = chain(rest.get(1 + name.len()..).unwrap_or_default());
                let length = 1 + name.len() + length;
                (Token::Operand(Operand::Variable(name, chain)), length)
            }
            c if c.is_ascii_digit() || c == '-' || c == '+' => {
                let number: String =
                    rest.chars().take_while(|c| c.is_ascii_alphanumeric() || "+-._".contains(*c)).collect();
                let value = number
                    .parse::<i64>()
                    .map(Value::from)
                    .or_else(|_| number.parse::<f64>().map(Value::from));
                let value = value.map_err(|_| format!("bad number syntax: {number:?}"))?;
                (Token::Operand(Operand::Literal(value)), number.len())
            }
            c if is_word(c) => {
                let word: String = rest.chars().take_while(|c| is_word(*c)).collect();
                let length = word.len();
                let operand = match word.as_str() {
                    "true" => Operand::Literal(true.into()),
                    "false" => Operand::Literal(false.into()),
                    "nil" => Operand::Literal(Value::Null),
                    _ => Operand::Function(word),
                };
                (Token::Operand(operand), length)
            }
            other => return Err(format!("unexpected {other:?}")),
        };
        tokens.push(token);
        rest = rest.get(length..).unwrap_or_default().trim_start();
    }
    Ok(tokens)
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// `.A.B` as names, and how long that was. A lone dot has none.
fn chain(text: &str) -> (Vec<String>, usize) {
    let mut names = Vec::new();
    let mut length = 0;
    while let Some(after) = text.get(length..).and_then(|rest| rest.strip_prefix('.')) {
        let name: String = after.chars().take_while(|c| is_word(*c)).collect();
        if name.is_empty() {
            return (names, if length == 0 { 1 } else { length });
        }
        length += 1 + name.len();
        names.push(name);
    }
    (names, length)
}

fn string(text: &str) -> Result<(Token, usize), String> {
    let mut value = String::new();
    let mut chars = text.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Ok((Token::Operand(Operand::Literal(value.into())), at + 1)),
            '\\' => match chars.next().map(|(_, c)| c) {
                Some('n') => value.push('\n'),
                Some('t') => value.push('\t'),
                Some('r') => value.push('\r'),
                Some(c @ ('"' | '\\' | '\'')) => value.push(c),
                _ => return Err("unknown escape in a string".into()),
            },
            c => value.push(c),
        }
    }
    Err("unterminated string".into())
}
