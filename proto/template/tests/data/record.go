// Records what Go's own text/template makes of the templates beside it, run as Ollama runs them (template.Execute at
// fb3076099: collated messages, legacy turns, missingkey=zero). Tools and calls print as JSON. It prints golden.json:
//
//	go run record.go > golden.json
//
// What is there was made with Go 1.19.8 of Debian 12.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"text/template"
	"text/template/parse"
)

func text(v any) string {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	if err := e.Encode(v); err != nil {
		panic(err)
	}
	return strings.TrimSuffix(b.String(), "\n")
}

type Types []string

func (t *Types) UnmarshalJSON(data []byte) error {
	var one string
	if json.Unmarshal(data, &one) == nil {
		*t = Types{one}
		return nil
	}
	return json.Unmarshal(data, (*[]string)(t))
}

func (t Types) MarshalJSON() ([]byte, error) {
	if len(t) == 1 {
		return json.Marshal(t[0])
	}
	return json.Marshal([]string(t))
}

func (t Types) String() string {
	if len(t) == 1 {
		return t[0]
	}
	if len(t) == 0 {
		return ""
	}
	return fmt.Sprint([]string(t))
}

type Property struct {
	Type        Types  `json:"type,omitempty"`
	Description string `json:"description,omitempty"`
	Enum        []any  `json:"enum,omitempty"`
}

func (p Property) String() string { return text(p) }

type Properties map[string]Property

func (p Properties) String() string { return text(p) }

type Parameters struct {
	Type       string     `json:"type"`
	Required   []string   `json:"required,omitempty"`
	Properties Properties `json:"properties"`
}

type Function struct {
	Name        string     `json:"name"`
	Description string     `json:"description"`
	Parameters  Parameters `json:"parameters"`
}

func (f Function) String() string { return text(f) }

type Tool struct {
	Type     string   `json:"type"`
	Function Function `json:"function"`
}

func (t Tool) String() string { return text(t) }

type Tools []Tool

func (t Tools) String() string { return text(t) }

type Arguments map[string]any

func (a Arguments) String() string { return text(a) }

type CalledFunction struct {
	Index     int
	Name      string
	Arguments Arguments
}

type ToolCall struct {
	ID       string
	Function CalledFunction
}

type Message struct {
	Role, Content, Thinking string
	Images                  []string
	ToolCalls               []ToolCall `json:"tool_calls"`
	ToolName                string     `json:"tool_name"`
	ToolCallID              string     `json:"tool_call_id"`
}

type Case struct {
	Messages  []Message
	WithTools bool `json:"with_tools"`
	Think     string
	Insert    *struct{ Before, After string }
}

func typescript(v any) string {
	names := map[string]string{"string": "string", "number": "number", "integer": "number", "boolean": "boolean", "null": "null"}
	var all []string
	for _, t := range v.(Property).Type {
		all = append(all, names[t])
	}
	return strings.Join(all, " | ")
}

// reads tells whether any part of the template names the field.
func reads(t *template.Template, field string) bool {
	for _, defined := range t.Templates() {
		if strings.Contains(defined.Root.String(), "."+field) {
			return true
		}
	}
	return false
}

// cut keeps the nodes up to the first that prints .Response.
func cut(list *parse.ListNode, done *bool) {
	var kept []parse.Node
	for _, n := range list.Nodes {
		if *done {
			break
		}
		switch n := n.(type) {
		case *parse.IfNode:
			cutBranch(&n.BranchNode, done)
		case *parse.WithNode:
			cutBranch(&n.BranchNode, done)
		case *parse.RangeNode:
			cutBranch(&n.BranchNode, done)
		case *parse.ActionNode:
			*done = strings.Contains(n.String(), ".Response")
		}
		kept = append(kept, n)
	}
	list.Nodes = kept
}

func cutBranch(b *parse.BranchNode, done *bool) {
	cut(b.List, done)
	if b.ElseList != nil {
		cut(b.ElseList, done)
	}
}

func render(source string, c Case, tools Tools) (string, error) {
	funcs := template.FuncMap{
		"json":             func(v any) string { b, _ := json.Marshal(v); return string(b) },
		"toTypeScriptType": typescript,
	}
	t, err := template.New("").Option("missingkey=zero").Funcs(funcs).Parse(source)
	if err != nil {
		return "", err
	}
	whole := reads(t, "Messages")
	if !whole && !reads(t, "Response") {
		t = template.Must(template.New("").Option("missingkey=zero").Funcs(funcs).Parse(source + "{{ .Response }}"))
	}
	level := ""
	if c.Think != "true" && c.Think != "false" {
		level = c.Think
	}
	data := func(fields map[string]any) map[string]any {
		all := map[string]any{"Response": "", "Think": c.Think != "" && c.Think != "false", "ThinkLevel": level, "IsThinkSet": c.Think != ""}
		for k, v := range fields {
			all[k] = v
		}
		return all
	}
	var out bytes.Buffer
	if c.Insert != nil {
		err := t.Execute(&out, data(map[string]any{"Prompt": c.Insert.Before, "Suffix": c.Insert.After}))
		return out.String(), err
	}
	var system []string
	var messages []*Message
	for i := range c.Messages {
		m := c.Messages[i]
		if m.Role == "system" {
			system = append(system, m.Content)
		}
		if n := len(messages); n > 0 && messages[n-1].Role == m.Role && m.Role != "tool" {
			messages[n-1].Content += "\n\n" + m.Content
		} else {
			messages = append(messages, &m)
		}
	}
	if whole {
		if !c.WithTools {
			tools = nil
		}
		err := t.Execute(&out, data(map[string]any{"System": strings.Join(system, "\n\n"), "Messages": messages, "Tools": tools}))
		return out.String(), err
	}
	turn := map[string]any{"System": "", "Prompt": "", "Response": ""}
	flush := func() {
		if err := t.Execute(&out, data(turn)); err != nil {
			panic(err)
		}
		turn = map[string]any{"System": "", "Prompt": "", "Response": ""}
	}
	for _, m := range messages {
		switch m.Role {
		case "system":
			if turn["Prompt"] != "" || turn["Response"] != "" {
				flush()
			}
			turn["System"] = m.Content
		case "user":
			if turn["Response"] != "" {
				flush()
			}
			turn["Prompt"] = m.Content
		case "assistant":
			turn["Response"] = m.Content
		}
	}
	done := false
	cut(t.Root, &done)
	err = t.Execute(&out, data(turn))
	return out.String(), err
}

func main() {
	var input struct {
		Tools Tools
		Cases map[string]Case
	}
	bytes, err := os.ReadFile("cases.json")
	if err != nil {
		panic(err)
	}
	if err := json.Unmarshal(bytes, &input); err != nil {
		panic(err)
	}
	golden := map[string]map[string]string{}
	files, _ := filepath.Glob("*.gotmpl")
	for _, file := range files {
		source, err := os.ReadFile(file)
		if err != nil {
			panic(err)
		}
		name := strings.TrimSuffix(file, ".gotmpl")
		golden[name] = map[string]string{}
		for title, c := range input.Cases {
			insert := c.Insert != nil
			if insert && !strings.Contains(string(source), ".Suffix") {
				continue
			}
			turns := !strings.Contains(string(source), ".Messages")
			if turns && title == "tools-round" {
				continue // refused by us, dropped without a word there
			}
			out, err := render(string(source), c, input.Tools)
			if err != nil {
				out = "ERROR " + err.Error()
			}
			golden[name][title] = out
		}
	}
	e := json.NewEncoder(os.Stdout)
	e.SetEscapeHTML(false)
	e.SetIndent("", " ")
	e.Encode(golden)
}
