package dataset

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// An IDX file is the bytes 0, 0, type, number of dimensions; the dimensions, 32 bits each, big-endian; then the
// values, last dimension fastest. Type 8 is unsigned bytes. Source: the MNIST page of LeCun, Cortes and Burges.
const ubyteMagic = 0x0800

// MaxBytes limits the image file and the label file together, uncompressed. It keeps a wrong or hostile file from
// taking a machine's memory: the training part of MNIST is 47 MB, the largest EMNIST pair 550 MB. While a file is
// read, buffers of about twice the bytes read so far are held.
const MaxBytes = 1 << 30

// Parse makes Data of two uncompressed IDX files, which it keeps: they must not be changed afterwards. Images have
// three dimensions (count, rows, columns) or four (then channels), labels one.
func Parse(images, labels []byte) (*Data, error) {
	return parse(idxFile{"images", images}, idxFile{"labels", labels})
}

// Read makes Data of two IDX files, each plain or gzip. It reads each to its end, or one byte beyond the length
// that its header calls for, which MaxBytes limits.
func Read(images, labels io.Reader) (*Data, error) {
	return read(idxSource{"images", images}, idxSource{"labels", labels})
}

// idxFile and idxSource are a file as bytes or as a stream, with its name for messages.
type (
	idxFile struct {
		name  string
		bytes []byte
	}
	idxSource struct {
		name   string
		reader io.Reader
	}
)

func parse(images, labels idxFile) (*Data, error) {
	dims, err := checkIDX(images, MaxBytes, 3, 4)
	if err != nil {
		return nil, err
	}
	labelDims, err := checkIDX(labels, MaxBytes-len(images.bytes), 1)
	if err != nil {
		return nil, err
	}
	if labelDims[0] != dims[0] {
		return nil, fmt.Errorf("%w: %s has %d images, %s has %d labels", ErrCount, images.name, dims[0], labels.name, labelDims[0])
	}
	d := &Data{count: dims[0], rows: dims[1], cols: dims[2], channels: 1, images: images.bytes, labels: labels.bytes}
	if len(dims) == 4 {
		d.channels = dims[3]
	}
	return d, nil
}

// checkIDX returns the dimensions of a file that is complete, exact and no longer than limit.
func checkIDX(f idxFile, limit int, ranks ...int) ([]int, error) {
	dims, size, err := parseHeader(f.name, f.bytes, limit, ranks...)
	if err != nil {
		return nil, err
	}
	if len(f.bytes) < size {
		return nil, fmt.Errorf("%w: %s has %d bytes, its header %v wants %d", ErrTruncated, f.name, len(f.bytes), dims, size)
	}
	if len(f.bytes) > size {
		return nil, fmt.Errorf("%w: %s goes on after the %d bytes that its header %v wants", ErrTrailing, f.name, size, dims)
	}
	return dims, nil
}

// parseHeader reads the header at the start of b and returns the dimensions and the length of the whole file.
func parseHeader(name string, b []byte, limit int, ranks ...int) (dims []int, size int, err error) {
	if len(b) < 4 {
		return nil, 0, fmt.Errorf("%w: %s has %d bytes, not even the 4 of the magic number", ErrTruncated, name, len(b))
	}
	magic := binary.BigEndian.Uint32(b)
	rank := int(magic) - ubyteMagic
	if !slices.Contains(ranks, rank) {
		return nil, 0, fmt.Errorf("%w: %s starts with %08x, wanted %08x (unsigned bytes, dimensions: %v)",
			ErrMagic, name, magic, ubyteMagic|ranks[0], ranks)
	}
	header := 4 + 4*rank
	if len(b) < header {
		return nil, 0, fmt.Errorf("%w: %s has %d bytes, the header alone wants %d", ErrTruncated, name, len(b), header)
	}
	size = 1
	for i := range rank {
		n := int64(binary.BigEndian.Uint32(b[4+4*i:]))
		if n == 0 {
			return nil, 0, fmt.Errorf("%w: %s, dimension %d of %d", ErrShape, name, i+1, rank)
		}
		if n > int64((limit-header)/size) {
			return nil, 0, fmt.Errorf("%w: %s says %x in its header, the limit for it is %d bytes", ErrTooLarge, name, b[4:header], limit)
		}
		size *= int(n)
		dims = append(dims, int(n))
	}
	return dims, header + size, nil
}

func read(images, labels idxSource) (*Data, error) {
	imageBytes, err := readIDX(images, MaxBytes, 3, 4)
	if err != nil {
		return nil, err
	}
	labelBytes, err := readIDX(labels, MaxBytes-len(imageBytes), 1)
	if err != nil {
		return nil, err
	}
	return parse(idxFile{images.name, imageBytes}, idxFile{labels.name, labelBytes})
}

// readIDX reads a plain or gzip file up to one byte more than its header calls for, which is enough to see that it is
// too long.
func readIDX(s idxSource, limit int, ranks ...int) ([]byte, error) {
	r := bufio.NewReader(s.reader)
	// IDX starts with two zero bytes, so that gzip is known by its own first two.
	if start, _ := r.Peek(2); bytes.Equal(start, []byte{0x1f, 0x8b}) {
		z, err := gzip.NewReader(r)
		if err != nil {
			return nil, readError(s.name, err)
		}
		r = bufio.NewReader(z)
	}
	header, err := r.Peek(4 + 4*slices.Max(ranks))
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, readError(s.name, err)
	}
	_, size, err := parseHeader(s.name, header, limit, ranks...)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(r, int64(size)+1))
	if err != nil {
		return nil, readError(s.name, err)
	}
	return b, nil
}

func readError(name string, err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: %s ends inside its gzip stream", ErrTruncated, name)
	}
	return fmt.Errorf("read %s: %w", name, err)
}

// idxName matches the names of the MNIST family: train-images-idx3-ubyte, t10k-labels-idx1-ubyte.gz,
// emnist-digits-train-images-idx3-ubyte, images-idx4-ubyte, train-images.idx3-ubyte.
var idxName = regexp.MustCompile(`^(?:(.+)-)?(images[-.]idx[34]|labels[-.]idx1)-ubyte(?:\.gz)?$`)

// pair is the names of an image file and of the label file that belongs to it.
type pair struct{ images, labels string }

// Open reads the pair of an image file and a label file in a folder whose names start with the prefix: with "train",
// train-images-idx3-ubyte and train-labels-idx1-ubyte. An empty prefix stands for the only pair there is. Files may be
// plain or gzip with the ending .gz; of a file that is there in both forms, the plain one is read. It returns
// ErrNoFiles, ErrAmbiguous, the errors of Read, and those of the file system.
func Open(dir, prefix string) (*Data, error) {
	p, err := findPair(dir, prefix)
	if err != nil {
		return nil, err
	}
	images, err := os.Open(filepath.Join(dir, p.images))
	if err != nil {
		return nil, err
	}
	defer images.Close()
	labels, err := os.Open(filepath.Join(dir, p.labels))
	if err != nil {
		return nil, err
	}
	defer labels.Close()
	return read(idxSource{p.images, images}, idxSource{p.labels, labels})
}

func findPair(dir, prefix string) (pair, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return pair{}, err
	}
	pairs := map[string]pair{}
	for _, e := range entries { // sorted, so that a plain file comes before its gzip form
		m := idxName.FindStringSubmatch(e.Name())
		if m == nil || prefix != "" && m[1] != prefix {
			continue
		}
		p := pairs[m[1]]
		name := &p.images
		if strings.HasPrefix(m[2], "labels") {
			name = &p.labels
		}
		switch *name {
		case "":
			*name = e.Name()
		case strings.TrimSuffix(e.Name(), ".gz"):
		default:
			return pair{}, fmt.Errorf("%w in %s: %s and %s; leave one of them there", ErrAmbiguous, dir, *name, e.Name())
		}
		pairs[m[1]] = p
	}
	var found []string
	for name, p := range pairs {
		if p.images != "" && p.labels != "" {
			found = append(found, name)
		}
	}
	switch len(found) {
	case 0:
		name := prefix + "-"
		if prefix == "" {
			name = "[PREFIX-]"
		}
		return pair{}, fmt.Errorf("%w in %s: wanted %simages-idx3-ubyte and %[3]slabels-idx1-ubyte, or the same with .gz", ErrNoFiles, dir, name)
	case 1:
		return pairs[found[0]], nil
	}
	slices.Sort(found)
	return pair{}, fmt.Errorf("%w in %s: choose one by its prefix: %q", ErrAmbiguous, dir, found)
}
