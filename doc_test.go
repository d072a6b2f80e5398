package osqvisor_test

import (
	"bytes"
	"errors"
	"fmt"
	"go/ast"
	"go/doc/comment"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/osqvisor/osqvisor"

// snippet is Go code of a document.
type snippet struct {
	from string // file and number
	code string
}

var goBlock = regexp.MustCompile("(?ms)^```go$\n(.*?)\n```")

func markdownSnippets(t *testing.T) (out []snippet) {
	t.Helper()
	files := []string{"README.md", "DESIGN.md", "CONTRIBUTING.md"}
	for _, pattern := range []string{"docs/*.md", "docs/*/*.md"} {
		more, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, more...)
	}
	for _, file := range files {
		for i, m := range goBlock.FindAllStringSubmatch(readFile(t, file), -1) {
			out = append(out, snippet{fmt.Sprintf("%s, block %d", file, i+1), m[1]})
		}
	}
	return out
}

// commentSnippets returns the code in a package's documentation.
func commentSnippets(t *testing.T, file string) (out []snippet) {
	t.Helper()
	parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments|parser.PackageClauseOnly)
	if err != nil {
		t.Fatal(err)
	}
	var p comment.Parser
	for _, block := range p.Parse(parsed.Doc.Text()).Content {
		if code, ok := block.(*comment.Code); ok {
			out = append(out, snippet{fmt.Sprintf("%s, code %d", file, len(out)+1), code.Text})
		}
	}
	return out
}

// TestCodeInDocuments type-checks all Go code in README, docs and the tour.
func TestCodeInDocuments(t *testing.T) {
	readme, tour := markdownSnippets(t), commentSnippets(t, "doc.go")
	if len(readme) == 0 || len(tour) < 3 {
		t.Fatalf("%d blocks of code in Markdown, %d in the tour", len(readme), len(tour))
	}
	remoteapi := commentSnippets(t, "extension/remoteapi/doc.go")
	for _, s := range slices.Concat(readme, tour, remoteapi) {
		if err := check(s.code); err != nil {
			t.Errorf("%s: %v", s.from, err)
		}
	}
}

// TestCheckFindsMistakes: what the documents are checked with does find them.
func TestCheckFindsMistakes(t *testing.T) {
	for code, want := range map[string]string{
		"x := runtime.NoSuchFunction()": "undefined",
		"return runner.Run()":           "not enough arguments",
		"import \"" + module + "/internal/guard\"\n\nvar _ = guard.Call": "internal",
		"if {":        "expected",
		"x := nobody": "undefined",
	} {
		if err := check(code); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", code, err, want)
		}
	}
}

// known are packages that a snippet may use without importing them.
var known = []string{
	"context", "errors", "fmt", "log/slog", "net/http", "os", "time",
	module + "/runtime", module + "/instance", module + "/extension", module + "/stats",
	module + "/extension/remoteapi", module + "/extension/transporttest", module + "/instance/osquerydtest",
}

// surroundings declares the variables that a snippet of statements may use without declaring them.
const surroundings = `
var (
	ctx      context.Context
	log      *slog.Logger
	client   extension.Transport
	myClient extension.Transport
	group    interface{ Go(func() error) }
	labels   map[string]string
	runner   *runtime.Runner
)
`

// check type-checks a file, declarations, or statements with or without imports before them.
func check(code string) error {
	var errs []error
	for _, source := range wrapped(code) {
		fset := token.NewFileSet()
		file, err := parser.ParseFile(fset, "snippet.go", source, parser.SkipObjectResolution)
		if err == nil {
			return typeCheck(fset, file)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

var importDecl = regexp.MustCompile(`(?s)\A\s*import (\(.*?\n\)|"[^"]+")[^\n]*\n`)

func wrapped(code string) []string {
	if strings.HasPrefix(strings.TrimSpace(code), "package ") {
		return []string{code}
	}
	imports := importDecl.FindString(code)
	rest := code[len(imports):]
	return []string{
		"package snippet\n" + imports + autoImports(imports, rest) + rest,
		"package snippet\n" + imports + autoImports(imports, rest+surroundings) + surroundings + "func _() (err error) {\n" + rest + "\nreturn nil\n}\n",
	}
}

// autoImports returns imports of the known packages that the code uses.
func autoImports(imports, code string) string {
	var out strings.Builder
	for _, path := range known {
		name := path[strings.LastIndex(path, "/")+1:]
		uses, err := regexp.MatchString(`\b`+name+`\.[A-Z]`, code)
		if err == nil && uses && !strings.Contains(imports, `"`+path+`"`) {
			fmt.Fprintf(&out, "import %q\n", path)
		}
	}
	return out.String()
}

func typeCheck(fset *token.FileSet, file *ast.File) error {
	var paths []string
	for _, spec := range file.Imports {
		path := strings.Trim(spec.Path.Value, `"`)
		if strings.HasPrefix(path, module) && strings.Contains(path, "/internal/") {
			return fmt.Errorf("%s is internal", path)
		}
		paths = append(paths, path)
	}
	exports, err := exportFiles(paths)
	if err != nil {
		return err
	}
	lookup := func(path string) (io.ReadCloser, error) { return os.Open(exports[path]) }
	var errs []error
	config := types.Config{
		Importer: importer.ForCompiler(fset, "gc", lookup),
		Error: func(err error) {
			// A snippet need not use all that it declares.
			if !strings.Contains(err.Error(), "declared and not used") {
				errs = append(errs, err)
			}
		},
	}
	_, _ = config.Check("snippet", fset, []*ast.File{file}, nil) // its errors are in errs
	return errors.Join(errs...)
}

// exportFiles returns the files with the compiled declarations of packages and of all that they import.
func exportFiles(paths []string) (map[string]string, error) {
	if len(paths) == 0 {
		return nil, nil
	}
	cmd := exec.Command("go", append([]string{"list", "-export", "-deps", "-f", "{{.ImportPath}} {{.Export}}"}, paths...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%w: %s", err, stderr.String())
	}
	files := map[string]string{}
	for line := range strings.Lines(string(out)) {
		if path, file, found := strings.Cut(strings.TrimSpace(line), " "); found {
			files[path] = file
		}
	}
	return files, nil
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// promised is a test, or with "…" at the end several, that README's table names for a package.
type promised struct{ row, test, dir string }

var (
	promiseRow  = regexp.MustCompile(`(?m)^\| (\d+) \|.*\| (.*) \|$`)
	promiseTest = regexp.MustCompile("`((?:Test|Fuzz)\\w+…?)`|\\bin ([\\w/]+(?:, [\\w/]+)*)")
)

// promises reads README's table: tests, then "in" and their packages.
func promises(t *testing.T) (rows []string, out []promised) {
	t.Helper()
	for _, row := range promiseRow.FindAllStringSubmatch(readFile(t, "README.md"), -1) {
		rows = append(rows, row[1])
		var waiting []string
		for _, m := range promiseTest.FindAllStringSubmatch(row[2], -1) {
			if m[1] != "" {
				waiting = append(waiting, m[1])
				continue
			}
			for _, dir := range strings.Split(m[2], ", ") {
				for _, test := range waiting {
					out = append(out, promised{row[1], test, dir})
				}
			}
			waiting = nil
		}
		if len(waiting) > 0 {
			t.Errorf("promise %s: no package after %v", row[1], waiting)
		}
	}
	return rows, out
}

func (p promised) names(dir, test string) bool {
	prefix, several := strings.CutSuffix(p.test, "…")
	return p.dir == dir && (p.test == test || several && strings.HasPrefix(test, prefix))
}

// tests returns the names of all tests of the module, by directory.
func tests(t *testing.T) map[string][]string {
	t.Helper()
	name := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`)
	out := map[string][]string{}
	err := filepath.WalkDir(".", func(path string, _ os.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, "_test.go") {
			dir := filepath.ToSlash(filepath.Dir(path))
			for _, m := range name.FindAllStringSubmatch(readFile(t, path), -1) {
				out[dir] = append(out[dir], m[1])
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestPromisesHaveTests: each promise in README has tests, all that it names are there, and it
// names all tests of promises.
func TestPromisesHaveTests(t *testing.T) {
	rows, named := promises(t)
	all := tests(t)
	for i, row := range rows {
		if row != fmt.Sprint(i+1) {
			t.Errorf("promise %s is row %d", row, i+1)
		}
		if !slices.ContainsFunc(named, func(p promised) bool { return p.row == row }) {
			t.Errorf("promise %s has no test", row)
		}
	}
	for _, p := range named {
		if !slices.ContainsFunc(all[p.dir], func(test string) bool { return p.names(p.dir, test) }) {
			t.Errorf("promise %s: there is no %s in %s", p.row, p.test, p.dir)
		}
	}
	number := regexp.MustCompile(`^TestPromise0?(\d*)`)
	for dir, names := range all {
		for _, test := range names {
			m := number.FindStringSubmatch(test)
			if len(m) < 2 || dir == "." {
				continue
			}
			right := func(p promised) bool { return p.names(dir, test) && (m[1] == "" || m[1] == p.row) }
			if !slices.ContainsFunc(named, right) {
				t.Errorf("no promise in README names %s in %s", test, dir)
			}
		}
	}
}
