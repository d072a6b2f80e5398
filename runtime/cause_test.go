package runtime

import (
	"go/ast"
	"go/parser"
	"go/token"
	"strconv"
	"testing"

	"github.com/osqvisor/osqvisor/stats"
)

// causes returns every constant of type Cause that package stats declares.
func causes(t *testing.T) []stats.Cause {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "../stats/cause.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var found []stats.Cause
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || len(spec.Values) != 1 {
			return true
		}
		if id, ok := spec.Type.(*ast.Ident); !ok || id.Name != "Cause" {
			return true
		}
		text, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, stats.Cause(text))
		return true
	})
	return found
}

// Whoever adds a cause decides what to do about it and what it leads to.
func TestEveryCauseHasAHintAndAPolicy(t *testing.T) {
	all := causes(t)
	if len(all) < 20 {
		t.Fatalf("only %d causes found", len(all))
	}
	policies := defaultCausePolicies()
	for _, c := range all {
		if c == stats.CauseRequested {
			continue // it is no failure
		}
		if c.Hint() == "" {
			t.Errorf("cause %q has no hint", c)
		}
		if _, ok := policies[c]; !ok {
			t.Errorf("cause %q has no restart policy", c)
		}
	}
	if len(policies) != len(all)-1 {
		t.Errorf("%d policies for %d causes", len(policies), len(all)-1)
	}
}
