package peers

import (
	"math/rand/v2"
	"slices"
)

// median of values; 0 if there are none.
func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	v := slices.Sorted(slices.Values(values))
	n := len(v)
	return (v[(n-1)/2] + v[n/2]) / 2
}

// interval is an estimate with its 95 % interval.
type interval struct{ Mid, Low, High float64 }

// resamples of the bootstrap.
const resamples = 10_000

// bootstrap gives the median of values and the percentile interval of the
// medians of samples drawn from them with replacement (Efron 1979). With few
// values it is no wider than they are.
func bootstrap(values []float64) interval {
	if len(values) == 0 {
		return interval{}
	}
	rnd := rand.New(rand.NewPCG(1, uint64(len(values))))
	medians := make([]float64, resamples)
	sample := make([]float64, len(values))
	for i := range medians {
		for j := range sample {
			sample[j] = values[rnd.IntN(len(values))]
		}
		medians[i] = median(sample)
	}
	slices.Sort(medians)
	return interval{median(values), medians[resamples*25/1000], medians[resamples*975/1000]}
}
