//! Go templates, as far as Docker's `--format` uses them: fields, pipes, `if`, `range`, `with`,
//! variables, comparisons, and Docker's own functions (docs.docker.com, "Format command and log
//! output"; text/template's documentation for the language).

mod eval;
mod parse;

use serde_json::Value;

/// A template that was understood.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Template(Vec<Node>);

#[derive(Debug, Clone, PartialEq)]
enum Node {
    Text(String),
    Action(Pipeline),
    If(Branch),
    With(Branch),
    Range(Branch),
}

/// `{{if p}} body {{else}} other {{end}}`, and its like.
#[derive(Debug, Clone, PartialEq)]
struct Branch {
    pipeline: Pipeline,
    body: Vec<Node>,
    otherwise: Vec<Node>,
}

/// `$name := a | b | c`
#[derive(Debug, Clone, PartialEq)]
struct Pipeline {
    variables: Vec<String>,
    /// `:=` rather than `=`.
    is_declared: bool,
    commands: Vec<Vec<Operand>>,
}

#[derive(Debug, Clone, PartialEq)]
enum Operand {
    /// `.A.B`; without names, the value at hand.
    Field(Vec<String>),
    /// `$x.A.B`; the empty name is the root.
    Variable(String, Vec<String>),
    Literal(Value),
    Function(String),
    /// `(p).A`
    Group(Box<Pipeline>, Vec<String>),
}

impl Template {
    /// Understands a template.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        parse::parse(text).map(Self)
    }

    /// Fills it in.
    ///
    /// # Errors
    /// A field that is not there, or a function that can't be applied.
    pub(crate) fn render(&self, value: &Value) -> Result<String, String> {
        eval::render(&self.0, value)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::Template;

    fn render(text: &str) -> Result<String, String> {
        let value = json!({
            "Name": "/web", "State": {"Running": true, "Pid": 42, "Status": "running"},
            "Mounts": [{"Source": "/a", "RW": true}, {"Source": "/b", "RW": false}],
            "Labels": {"com.foo": "bar", "x": "1"}, "Empty": [], "Size": 1.5, "Nothing": null,
        });
        Template::parse(text)?.render(&value)
    }

    /// By text/template's documentation; tests/e2e compares with Docker's own command line.
    #[test]
    fn templates_render_as_in_go() {
        for (text, expected) in [
            ("{{.Name}} {{.State.Pid}}", "/web 42"),
            (
                "{{json .State.Status}}|{{json .Mounts}}",
                "\"running\"|[{\"RW\":true,\"Source\":\"/a\"},{\"RW\":false,\"Source\":\"/b\"}]",
            ),
            ("{{range .Mounts}}{{.Source}};{{end}}", "/a;/b;"),
            ("{{range $i, $m := .Mounts}}{{if $i}},{{end}}{{$m.Source}}{{end}}", "/a,/b"),
            ("{{range $k, $v := .Labels}}{{$k}}={{$v}} {{end}}", "com.foo=bar x=1 "),
            ("{{range .Empty}}x{{else}}none{{end}}", "none"),
            ("{{if and .State.Running (gt .State.Pid 40)}}yes{{else}}no{{end}}", "yes"),
            (
                "{{if eq .State.Status \"paused\"}}a{{else if eq .State.Status \"exited\" \"running\"}}b{{end}}",
                "b",
            ),
            ("{{index .Labels \"com.foo\"}}{{index .Labels \"missing\"}}", "bar"),
            ("{{(index .Mounts 1).Source}} {{len .Mounts}}", "/b 2"),
            ("{{with .State}}{{.Pid}}{{$.Name}}{{end}}", "42/web"),
            ("{{.Name | upper | printf \"%-8s|%5d|%q\" | println}}", "/WEB    |%!d(MISSING)|%!q(MISSING)\n"),
            ("{{printf \"%s has %03d, %.2f%%\" .Name .State.Pid .Size}}", "/web has 042, 1.50%"),
            ("a  {{- /* gone */ -}}  b", "ab"),
            (
                "{{.Labels}} {{.Mounts}} {{.Nothing}}",
                "map[com.foo:bar x:1] [map[RW:true Source:/a] map[RW:false Source:/b]] <nil>",
            ),
            (
                "{{$x := \"a b\"}}{{range split $x \" \"}}[{{.}}]{{end}}{{join (split $x \" \") \"-\"}}",
                "[a][b]a-b",
            ),
            ("{{slice .Name 1}}{{slice .Name 0 2}}{{truncate .Name 3}}", "web/w/we"),
            (
                "{{not .State.Running}}{{or .Nothing .Name}}{{title \"abc\"}}{{pad \"x\" 1 2}}|",
                "false/webAbc x  |",
            ),
            ("{{ne 1 2}}{{lt 1 2}}{{le 2 2}}{{ge \"b\" \"a\"}}{{`raw \\n`}}", "truetruetruetrueraw \\n"),
        ] {
            assert_eq!(render(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn mistakes_are_told() {
        for (text, expected) in [
            ("{{.Nme}}", "no field \"Nme\"; there are"),
            ("{{.Name.More}}", "can't evaluate field More in a string"),
            ("{{.Name", "unclosed action"),
            ("{{if .Name}}x", "unexpected end: {{end}} is missing"),
            ("{{end}}", "unexpected {{end}}"),
            ("{{frob .Name}}", "function \"frob\" is not defined"),
            ("{{index .Mounts 7}}", "index out of range: 7"),
            ("{{\"a}}", "unterminated string"),
            ("{{$y}}", "undefined variable \"$y\""),
        ] {
            let error = render(text).expect_err(text);
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    proptest::proptest! {
        /// Whatever is given, there is an answer.
        #[test]
        fn nothing_panics(text in "(\\{\\{|\\}\\}|[a-z.$\"()|: =-]|if |end|range |else|/\\*|\\*/){0,24}") {
            let _ = render(&text);
        }
    }
}
