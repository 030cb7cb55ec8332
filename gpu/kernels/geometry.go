package kernels

import "github.com/descentnet/minerd/nn"

// The functions below give the grid and the block of a launch, one function per kernel (or pair of kernels of the same
// shape). The grid's x counts tiles or chunks, as only x may exceed 65,535; its z is the number of trials, which may not.
// The constants are those of the sources named.
const (
	chunk       = 256 // threads that take one value each: 256 in conv_update, dense_finish, gather, pool and state.cu
	leafThreads = 64  // sha_leaves in sha.cu
	treeThreads = 512 // TREE_THREADS in sha.cu
	lossThreads = 32  // LOSS_THREADS in loss.cu
	stepThreads = 32  // mean_losses in loss.cu
	fewTaps     = 64  // FEW_TAPS in conv_weight_gradient.cu
	quad        = 4   // channels that a thread of pool.cu takes where they divide evenly
)

// MaxTrials is how many trials one launch can run side by side.
const MaxTrials = 65535

// tile is a Tile of fold.cuh: what one of its groups of threads makes, groups, threads of all.
type tile struct{ rows, cols, groups, threads int }

var (
	denseTile   = tile{32, 64, 1, 128}  // DenseTile in fold.cuh
	updateTile  = tile{64, 64, 1, 256}  // UpdateTile in dense_update.cu
	convTile    = tile{128, 32, 1, 128} // ConvTile in conv.cuh
	fewTapsTile = tile{16, 32, 4, 128}  // FewTapsTile in conv_weight_gradient.cu
)

func ceil(n, by int) int { return (n + by - 1) / by }

func launch(blocks, threads, trials int) (grid, block [3]int) {
	return [3]int{blocks, 1, trials}, [3]int{threads, 1, 1}
}

// product is the launch of products of rows x cols values each.
func (t tile) product(products, rows, cols, trials int) (grid, block [3]int) {
	return launch(ceil(products, t.groups)*ceil(rows, t.rows)*ceil(cols, t.cols), t.threads, trials)
}

// Gather is the launch of gather.
func Gather(batch, size, trials int) (grid, block [3]int) {
	return launch(ceil(batch*size, chunk), chunk, trials)
}

// ConvForward is the launch of conv_forward.
func ConvForward(batch, outRows, outCols, units, trials int) (grid, block [3]int) {
	return convTile.product(1, batch*outRows*outCols, units, trials)
}

// MaxPooledWindow is how many elements a pooling's window may have that is made with the convolution before it.
const MaxPooledWindow = 128 // ROWS of ConvTile: a tile has whole windows

// ConvPoolForward is the launch of conv_pool_forward; rows and columns are those of the pooling's output, window is the
// number of elements of its window.
func ConvPoolForward(batch, poolRows, poolCols, window, units, trials int) (grid, block [3]int) {
	t := convTile
	t.rows /= window
	return t.product(1, batch*poolRows*poolCols, units, trials)
}

// ConvInputGradient is the launch of conv_input_gradient and conv_pool_input_gradient.
func ConvInputGradient(batch, inRows, inCols, inChannels, trials int) (grid, block [3]int) {
	return convTile.product(1, batch*inRows*inCols, inChannels, trials)
}

// ConvWeightGradient is the launch of conv_weight_gradient and conv_pool_weight_gradient; rows and columns are those of
// the convolution's output, taps is the kernel's area times its input channels.
func ConvWeightGradient(samples, outRows, outCols, units, taps, trials int) (grid, block [3]int) {
	t := convTile
	if taps+1 <= fewTaps {
		t = fewTapsTile
	}
	return t.product(samples*ceil(outRows*outCols, nn.FoldBlock), taps+1, units, trials)
}

// ConvUpdate is the launch of conv_update_adam and conv_update_sgd; count is the number of weights and biases.
func ConvUpdate(count, trials int) (grid, block [3]int) {
	return launch(ceil(count, chunk), chunk, trials)
}

// PoolForward is the launch of pool_forward.
func PoolForward(batch, outRows, outCols, channels, trials int) (grid, block [3]int) {
	return pool(batch*outRows*outCols, channels, trials)
}

// PoolInputGradient is the launch of pool_input_gradient.
func PoolInputGradient(batch, inRows, inCols, channels, trials int) (grid, block [3]int) {
	return pool(batch*inRows*inCols, channels, trials)
}

func pool(pixels, channels, trials int) (grid, block [3]int) {
	if channels%quad == 0 {
		channels /= quad
	}
	return launch(ceil(pixels*channels, chunk), chunk, trials)
}

// DenseForward is the launch of dense_forward.
func DenseForward(batch, inputs, units, trials int) (grid, block [3]int) {
	return denseTile.product(ceil(inputs, nn.FoldBlock), batch, units, trials)
}

// DenseFinish is the launch of dense_finish.
func DenseFinish(batch, units, trials int) (grid, block [3]int) {
	return launch(ceil(batch*units, chunk), chunk, trials)
}

// DenseInputGradient is the launch of dense_input_gradient.
func DenseInputGradient(batch, inputs, trials int) (grid, block [3]int) {
	return denseTile.product(1, batch, inputs, trials)
}

// DenseUpdate is the launch of dense_update_adam and dense_update_sgd.
func DenseUpdate(inputs, units, trials int) (grid, block [3]int) {
	return updateTile.product(1, inputs+1, units, trials)
}

// Loss is the launch of loss and dense_loss.
func Loss(batch, trials int) (grid, block [3]int) { return launch(batch, lossThreads, trials) }

// MeanLosses is the launch of mean_losses.
func MeanLosses(steps, trials int) (grid, block [3]int) {
	return launch(ceil(steps, stepThreads), stepThreads, trials)
}

// CopyState is the launch of copy_state.
func CopyState(words, trials int) (grid, block [3]int) {
	return launch(ceil(words, chunk), chunk, trials)
}

// SetScalars is the launch of set_scalars.
func SetScalars(trials int) (grid, block [3]int) { return launch(1, 1, trials) }

// ShaLeaves is the launch of sha_leaves.
func ShaLeaves(bytes, trials int) (grid, block [3]int) {
	return launch(ceil(ceil(bytes, nn.LeafSize), leafThreads), leafThreads, trials)
}

// ShaTree is the launch of sha_tree.
func ShaTree(trials int) (grid, block [3]int) { return launch(1, treeThreads, trials) }
