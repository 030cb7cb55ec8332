package nn

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const module = "github.com/descentnet/minerd"

// goTool runs the go command and gives what it wrote to both outputs.
func goTool(t *testing.T, env []string, args ...string) string {
	t.Helper()
	path, err := exec.LookPath("go")
	if err != nil {
		t.Skip("no go command in PATH: run it where the toolchain is")
	}
	cmd := exec.Command(path, args...)
	cmd.Env = append(os.Environ(), env...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, errs.Bytes())
	}
	return out.String() + errs.String()
}

// dependencies are the packages that pkg is built from, the standard library's left out.
func dependencies(t *testing.T, pkg string) []string {
	t.Helper()
	deps := strings.Fields(goTool(t, nil, "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", pkg))
	if len(deps) == 0 || deps[len(deps)-1] != pkg {
		t.Fatalf("the dependencies of %s are given as %q", pkg, deps)
	}
	return deps
}

// The arithmetic stands on the standard library and the detection of CPU features alone.
func TestImportsOfArithmetic(t *testing.T) {
	for _, dep := range dependencies(t, module+"/nn") {
		own := dep == module+"/nn" || strings.HasPrefix(dep, module+"/nn/")
		if !own && !strings.HasPrefix(dep, "golang.org/x/sys/") {
			t.Errorf("package nn depends on %s", dep)
		}
	}
}

// The rules know nothing of database, network, devices, logs and wire messages.
func TestImportsOfRules(t *testing.T) {
	files, err := filepath.Glob(filepath.Join("..", "chain", "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	if len(files) == 0 {
		t.Skip("package chain has no Go files: it takes them to run this")
	}
	for _, dep := range dependencies(t, module+"/chain") {
		for _, barred := range []string{"badger", "libp2p", "gorgonia.org/cu", "go-nvml", "go.uber.org/zap", "protobuf", "connectrpc.com",
			module + "/store", module + "/p2p", module + "/node", module + "/miner", module + "/gpu", module + "/api"} {
			if strings.Contains(dep, barred) {
				t.Errorf("package chain depends on %s", dep)
			}
		}
	}
}

// No product is fused into a sum, where the compiler may do so. It may do so across statements and through memory;
// arm64 has the instructions always.
func TestNoFusedInstructions(t *testing.T) {
	if testing.Short() {
		t.Skip("compiles for arm64: leave out -short to run it")
	}
	listing := goTool(t, []string{"GOARCH=arm64", "GOOS=linux", "CGO_ENABLED=0"}, "build", "-gcflags=-S", module+"/nn")
	if !strings.Contains(listing, "FMULS") {
		t.Fatalf("no listing of the code, only\n%.1000s", listing)
	}
	fused := regexp.MustCompile(`(?m)^.*\tFN?M(ADD|SUB)[SD]\t.*$`)
	for _, line := range fused.FindAllString(listing, -1) {
		t.Errorf("fused: %s", line)
	}
}
